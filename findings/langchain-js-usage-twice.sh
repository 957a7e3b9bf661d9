#!/usr/bin/env bash
# LangChain.js and a stream that gives its usage on the chunk with the finish_reason, as DeepSeek
# and Groq do, or its finish_reason more than once, as Google's OpenAI-compatible endpoint does.
#
# One would expect: one usage and one finish_reason, each as the server sent it.
# What happens: the finished message holds two usages that differ: usage_metadata is right (10 and
# 3), response_metadata.usage is twice that (20 and 6). Two finish_reasons become one word that no
# API knows, "lengthstop" or "stopstop", and the model's name is doubled with them ("mm").
# Why a gateway's user cares: callbacks and tracers that read response_metadata bill double and
# find no model of that name; `finish_reason == "stop"` is false. A gateway can keep its clients
# out of this: finish_reason once, usage once, in a chunk of its own without choices.
#
# Nothing is sent: fetch is replaced. 2026-11-30, the versions pinned below.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund @langchain/openai@1.5.8 @langchain/core@1.4.0

cat >client.mjs <<'JS'
import { ChatOpenAI } from "@langchain/openai";
const usage = { prompt_tokens: 10, completion_tokens: 3, total_tokens: 13 };
const chunk = (delta, finish_reason = null, more = {}) => ({
  id: "c", object: "chat.completion.chunk", created: 1, model: "m",
  choices: delta ? [{ index: 0, delta, finish_reason }] : [], ...more,
});
const head = chunk({ role: "assistant", content: "a" }), end = chunk(null, null, { usage });
let chunks;
globalThis.fetch = async () => new Response(
  [...chunks.map((c) => JSON.stringify(c)), "[DONE]"].map((data) => `data: ${data}\n\n`).join(""),
  { headers: { "content-type": "text/event-stream" } });
for (const [name, stream] of Object.entries({
  "usage in a chunk of its own": [head, chunk({}, "stop"), end],
  "usage beside the finish_reason": [head, chunk({}, "stop", { usage })],
  "finish_reason twice": [head, chunk({}, "length"), chunk({}, "stop"), end],
  "finish_reason on every chunk": [chunk(head.choices[0].delta, "stop"), chunk({}, "stop"), end],
})) {
  chunks = stream;
  const model = new ChatOpenAI({ model: "m", apiKey: "k" });
  let whole;
  for await (const piece of await model.stream("Hi")) whole = whole ? whole.concat(piece) : piece;
  const { usage_metadata: right, response_metadata: said } = whole;
  console.log(`${name}: ${said.finish_reason} of ${said.model_name},`,
    `${right.input_tokens} + ${right.output_tokens} in usage_metadata,`,
    `${said.usage.prompt_tokens} + ${said.usage.completion_tokens} in response_metadata`);
}
JS
npm ls --depth=0 | grep -- '-- '
timeout 60 node client.mjs | tee seen
diff - seen <<'END' && echo "as on 2026-11-30"
usage in a chunk of its own: stop of m, 10 + 3 in usage_metadata, 10 + 3 in response_metadata
usage beside the finish_reason: stop of m, 10 + 3 in usage_metadata, 20 + 6 in response_metadata
finish_reason twice: lengthstop of mm, 10 + 3 in usage_metadata, 10 + 3 in response_metadata
finish_reason on every chunk: stopstop of mm, 10 + 3 in usage_metadata, 10 + 3 in response_metadata
END
