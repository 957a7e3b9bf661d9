#!/usr/bin/env bash
# A stream whose chunks all carry the usage so far (vLLM: continuous_usage_stats), read by
# three Python clients.
#
# One would expect: 10 prompt and 3 completion tokens, which is what the last chunk says.
# What happens: LangChain and pydantic-ai add the chunks up: 50 prompt and 10 completion tokens for
# a call of 10 and 3; the longer the answer, the more. If the usage comes before the last word,
# openai's stream helper has none at all, though its Node twin has.
# Why a gateway's user cares: a framework's own counter, its limits (pydantic-ai's UsageLimits) and
# its tracing are wrong by the length of the answer, while the gateway's books are right. A gateway
# should send usage once, in the last chunk, whatever its upstream does.
#
# 2026-11-30, the versions pinned below; a stub server on loopback.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -qq --no-compile openai==3.57.0 langchain-openai==1.7.4 \
  'pydantic-ai-slim[openai]==2.68.0'

cat >clients.py <<'PY'
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic_ai.direct import model_request_stream_sync
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

def chunk(delta, said, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    usage = said and {"prompt_tokens": 10, "completion_tokens": said, "total_tokens": 10 + said}
    whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
             "choices": [choice] if delta is not None else [], "usage": usage}
    return f"data: {json.dumps(whole)}\n\n"

HEAD, A, B = {"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}
STREAMS = {
    "once, last": chunk(HEAD, None) + chunk(A, None) + chunk({}, None, "stop") + chunk(None, 3),
    "every chunk": "".join(
        [chunk(HEAD, 1), chunk(A, 1), chunk(B, 2), chunk({}, 3, "stop"), chunk(None, 3)]),
    "once, before the last word": chunk(HEAD, 3) + chunk(A, None) + chunk({}, None, "stop"),
}

class Stub(BaseHTTPRequestHandler):
    def do_POST(self):
        model = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(STREAMS[model].encode() + b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
threading.Thread(target=server.serve_forever, daemon=True).start()
options = {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "k"}

def openai(model):
    hi = [{"role": "user", "content": "Hi"}]
    with OpenAI(**options).chat.completions.stream(model=model, messages=hi) as stream:
        usage = stream.get_final_completion().usage
    return usage and (usage.prompt_tokens, usage.completion_tokens)

def langchain(model):
    chat = ChatOpenAI(model=model, stream_usage=True, use_responses_api=False, **options)
    whole, *rest = chat.stream("Hi")
    for piece in rest:
        whole += piece
    return whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]

def pydantic_ai(model):
    chat = OpenAIChatModel(model, provider=OpenAIProvider(**options))
    with model_request_stream_sync(chat, [ModelRequest.user_text_prompt("Hi")]) as stream:
        list(stream)
        return stream.usage.input_tokens, stream.usage.output_tokens

for client in openai, langchain, pydantic_ai:
    for model in STREAMS:
        print(f"{client.__name__}, {model}: {client(model)}")
PY
venv/bin/pip freeze | grep -iE '^(openai|langchain-openai|pydantic-ai-slim)='
timeout 100 venv/bin/python clients.py | tee seen
diff - seen <<'END' && echo "as on 2026-11-30"
openai, once, last: (10, 3)
openai, every chunk: (10, 3)
openai, once, before the last word: None
langchain, once, last: (10, 3)
langchain, every chunk: (50, 10)
langchain, once, before the last word: (10, 3)
pydantic_ai, once, last: (10, 3)
pydantic_ai, every chunk: (50, 10)
pydantic_ai, once, before the last word: (10, 3)
END
