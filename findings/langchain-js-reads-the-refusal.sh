#!/usr/bin/env bash
# Whether LangChain.js asks again after a 429 depends on the words of the error's message.
#
# One would expect: 429 is asked again, up to maxRetries times, as OpenAI's own SDK does; what a
# server writes for people to read changes nothing.
# What happens: a 429 without retry-after is never asked again, unless its message says "try again
# in 2s"; retry-after-ms is not read. A message that has the word billing (a team's name, say) or
# "usage quota" in it, or says when something "will reset at", is final even beside retry-after: 1
# and x-should-retry: true. Above 60 s it gives up. A 409, which OpenAI's SDK retries, is final.
# Why a gateway's user cares: the same rate limit looks flaky or final only by its wording. A
# passing refusal needs retry-after in whole seconds and must not say "will reset at"; one for a
# used-up budget is understood by code insufficient_quota, whatever else it says.
#
# Nothing is sent: fetch is replaced. 2026-11-30, the versions pinned below.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund @langchain/openai@1.5.8 @langchain/core@1.4.0

cat >client.mjs <<'JS'
import { ChatOpenAI } from "@langchain/openai";
let calls, status, headers, error;
globalThis.fetch = async () => (calls++, Response.json({ error }, { status, headers }));
const later = setTimeout;  // so that no wait takes its time
globalThis.setTimeout = (then, ms, ...rest) => later(then, Math.min(ms, 1), ...rest);
const model = new ChatOpenAI({ model: "m", apiKey: "k", maxRetries: 2 });
const soon = { "retry-after": "1" }, yes = { "x-should-retry": "true" };
const limit = "rate_limit_exceeded";
for (const [answer, head, code, message] of [
  [429, {}, limit, "Rate limit reached."],
  [429, { "retry-after-ms": "100" }, limit, "Rate limit reached."],
  [429, yes, limit, "Rate limit reached."],
  [429, {}, limit, "Rate limit reached. Try again in 2s."],
  [429, soon, limit, "Rate limit reached."],
  [429, soon, limit, "Rate limit reached. It will reset at 12:00."],
  [429, soon, limit, "Rate limit of team billing reached."],
  [429, { ...soon, ...yes }, limit, "Usage quota reached."],
  [429, soon, "insufficient_quota", "Rate limit reached."],
  [429, { "retry-after": "61" }, limit, "Rate limit reached."],
  [409, soon, "conflict", "Still running."],
  [503, {}, "overloaded", "Overloaded."],
]) {
  [calls, status, headers, error] = [0, answer, head, { message, type: code, code }];
  const name = await model.invoke("Hi").catch((e) => e.name);
  console.log(`${calls} x ${answer} ${Object.keys(head)} "${message}" ${name}`);
}
process.exit(0);
JS
npm ls --depth=0 | grep -- '-- '
timeout 60 node client.mjs 2>errors | tee seen || { cat errors; exit 1; }
diff - seen <<'END' && echo "as on 2026-11-30"
1 x 429  "Rate limit reached." RateLimitCapacityError
1 x 429 retry-after-ms "Rate limit reached." RateLimitCapacityError
1 x 429 x-should-retry "Rate limit reached." RateLimitCapacityError
3 x 429  "Rate limit reached. Try again in 2s." Error
3 x 429 retry-after "Rate limit reached." Error
1 x 429 retry-after "Rate limit reached. It will reset at 12:00." RateLimitQuotaExhaustedError
1 x 429 retry-after "Rate limit of team billing reached." RateLimitQuotaExhaustedError
1 x 429 retry-after,x-should-retry "Usage quota reached." RateLimitQuotaExhaustedError
1 x 429 retry-after "Rate limit reached." InsufficientQuotaError
1 x 429 retry-after "Rate limit reached." RateLimitCapacityError
1 x 409 retry-after "Still running." Error
3 x 503  "Overloaded." Error
END
