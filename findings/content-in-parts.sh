#!/usr/bin/env bash
# A delta whose content is a list of parts, as Mistral's reasoning models stream it:
# {"content": [{"type": "text", "text": "Hello"}]}.
#
# One would expect: the text, or an error that names the field.
# What happens: four clients, four readings of the same bytes, all counted and paid the same:
# openai-node's stream helper says "[object Object]", LangChain.js says nothing (and prints a
# warning), the AI SDK's OpenAI provider fails, its OpenAI-compatible provider says Hello.
# Why a gateway's user cares: "[object Object]" in a chat is this. What an upstream sends in parts
# has to become a plain string (and reasoning_content) on its way through a gateway.
#
# Nothing is sent: fetch is replaced. 2026-11-30, the versions pinned below.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --legacy-peer-deps openai@7.59.0 ai@7.0.173 \
  @ai-sdk/openai@4.0.118 @ai-sdk/openai-compatible@3.0.92 zod@4.4.3 \
  @langchain/openai@1.5.8 @langchain/core@1.4.0

cat >clients.mjs <<'JS'
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import { streamText } from "ai";
import OpenAI from "openai";
const chunk = (delta, finish_reason = null) => ({
  id: "c", object: "chat.completion.chunk", created: 1, model: "m",
  choices: [{ index: 0, delta, finish_reason }],
});
const parts = [{ type: "text", text: "Hello" }];
const stream = [chunk({ role: "assistant", content: parts }), chunk({}, "stop")]
  .map((whole) => `data: ${JSON.stringify(whole)}\n\n`).join("") + "data: [DONE]\n\n";
const headers = { "content-type": "text/event-stream" };
globalThis.fetch = async () => new Response(stream, { headers });
const apiKey = "k", baseURL = "http://127.0.0.1:9", ask = [{ role: "user", content: "Hi" }];

async function aiSdk(model) {
  let failure;
  const answer = streamText({ model, prompt: "Hi", onError: ({ error }) => (failure = error) });
  const text = await answer.text.catch((error) => (failure ??= error));
  if (failure) throw failure;
  return text;
}
for (const [name, read] of Object.entries({
  "openai-node": async () => {
    const { completions } = new OpenAI({ apiKey, baseURL }).chat;
    const helper = completions.stream({ model: "m", messages: ask });
    return (await helper.finalChatCompletion()).choices[0].message.content;
  },
  "langchain-js": async () => {
    let text = "";
    const pieces = await new ChatOpenAI({ model: "m", apiKey }).stream("Hi");
    for await (const piece of pieces) text += piece.text;
    return text;
  },
  "@ai-sdk/openai": () => aiSdk(createOpenAI({ apiKey, baseURL }).chat("m")),
  "@ai-sdk/openai-compatible": () => aiSdk(createOpenAICompatible({ name: "x", baseURL })("m")),
})) console.log(name, await read().then((text) => JSON.stringify(text), (error) => error.name));
JS
npm ls --depth=0 --legacy-peer-deps | grep -- '-- '
timeout 60 node clients.mjs 2>errors | tee seen || { cat errors; exit 1; }
diff - seen <<'END' && echo "as on 2026-11-30"
openai-node "[object Object]"
[WARNING]: Received non-string content from OpenAI. This is currently not supported.
langchain-js ""
@ai-sdk/openai AI_TypeValidationError
@ai-sdk/openai-compatible "Hello"
END
