#!/usr/bin/env bash
# A refusal says "retry-after: 3600", as one about a daily budget would. What do the SDKs do?
#
# One would expect: they agree. Either the call fails at once, or the wait is cut short.
# What happens: four clients, four answers.
#   anthropic (Python)  sleeps the whole hour inside the call, twice, whatever its timeout says
#   openai (Python)     sleeps up to 120 s, twice; above that it fails at once
#   openai (Node)       sleeps up to 60 s; above that it is back within a second, twice
#   AI SDK              sleeps below 60 s; from there on it is back after 2 s and 4 s
# "x-should-retry: false" ends it at once in the first three; the AI SDK does not read it.
# Why a gateway's user cares: a chat that stands still for an hour may be this header, and the
# same header makes another client ask again at once. A refusal that will not pass soon has to
# carry x-should-retry: false as well, and must be cheap for the server.
#
# Waits are recorded and not slept; nothing is sent. 2026-11-30, the versions pinned below.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -qq --no-compile openai==3.57.0 anthropic==2.14.0
npm install --silent --no-audit --no-fund --legacy-peer-deps \
  openai@7.59.0 ai@7.0.173 @ai-sdk/openai-compatible@3.0.92 zod@4.4.3

cat >clients.py <<'PY'
import time
from anthropic import Anthropic
from httpx2 import Client, MockTransport, Response
from openai import OpenAI

def refuse(request):
    calls.append(request)
    return Response(429, headers={"retry-after": wait, "x-should-retry": retry})

time.sleep = lambda seconds: slept.append(seconds)
options = {"api_key": "k", "http_client": Client(transport=MockTransport(refuse))}
ask = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
for name, create in {
    "openai-python": OpenAI(**options).chat.completions.create,
    "anthropic-python": Anthropic(**options).messages.create,
}.items():
    cells = []
    for wait, retry in ("30", ""), ("90", ""), ("3600", ""), ("3600", "false"):
        calls, slept = [], [0]
        try:
            create(**ask)
        except Exception as error:
            assert error.status_code == 429, error
        longest = f"{max(slept):.0f} s" if max(slept) > 5 else "soon"
        cells.append(f"{len(calls)} x {longest}")
    print(f"{name}:", ", ".join(cells))
PY
cat >clients.mjs <<'JS'
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";
import OpenAI from "openai";
let calls, longest, headers;
globalThis.fetch = async () => (calls++, new Response("{}", { status: 429, headers }));
const later = setTimeout;
globalThis.setTimeout = (then, ms, ...rest) => {
  if (ms === 600000) return later(then, ms, ...rest);  // openai's own limit for a request
  longest = Math.max(longest, ms / 1000);
  return later(then, 1, ...rest);
};
const baseURL = "http://127.0.0.1:9", messages = [{ role: "user", content: "Hi" }];
const openai = new OpenAI({ baseURL, apiKey: "k" });
const model = createOpenAICompatible({ name: "x", baseURL })("m");
for (const [name, ask] of [
  ["openai-node", () => openai.chat.completions.create({ model: "m", messages })],
  ["ai-sdk", () => generateText({ model, messages })],
]) {
  const cells = [];
  for (const [wait, retry] of [["30", ""], ["90", ""], ["3600", ""], ["3600", "false"]]) {
    [calls, longest] = [0, 0];
    headers = { "retry-after": wait, "x-should-retry": retry };
    await ask().catch(() => {});
    cells.push(`${calls} x ${longest > 5 ? `${longest} s` : "soon"}`);
  }
  console.log(`${name}:`, cells.join(", "));
}
process.exit(0);
JS
venv/bin/pip freeze | grep -E '^(openai|anthropic)='
npm ls --depth=0 --legacy-peer-deps | grep -- '-- '
echo "calls and the longest wait; retry-after 30, 90, 3600, 3600 with x-should-retry: false"
{ timeout 60 venv/bin/python clients.py && timeout 60 node clients.mjs; } | tee seen
diff - seen <<'END' && echo "as on 2026-11-30"
openai-python: 3 x 30 s, 3 x 90 s, 1 x soon, 1 x soon
anthropic-python: 3 x 30 s, 3 x 90 s, 3 x 3600 s, 1 x soon
openai-node: 3 x 30 s, 3 x soon, 3 x soon, 1 x soon
ai-sdk: 3 x 30 s, 3 x soon, 3 x soon, 3 x soon
END
