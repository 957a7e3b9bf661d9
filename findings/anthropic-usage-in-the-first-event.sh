#!/usr/bin/env bash
# A stream of /v1/messages in the shape of Anthropic's first documentation: the prompt's tokens
# stand in message_start, and message_delta has output_tokens only. llama.cpp's server (xllamacpp
# 2026.10) sends this shape.
#
# One would expect: every client that knows the protocol adds the two up.
# What happens: LangChain's ChatAnthropic says 0 input tokens, and no cached ones; it reads the
# prompt from message_delta alone. Two message_deltas (3, then 7: they are running totals) are 7
# output tokens for Anthropic's own SDK, 10 for LangChain. A message_delta that says
# input_tokens: 0 wins over message_start in both.
# Why a gateway's user cares: cost reports from LangChain leave out the prompt, which is most of
# the bill. A gateway that serves /v1/messages does well to repeat input_tokens and the cache's
# figures in one last message_delta, and never to put a 0 there that it does not mean.
#
# 2026-11-30, the versions pinned below; a stub server on loopback.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -qq --no-compile anthropic==2.14.0 langchain-anthropic==1.7.10

cat >clients.py <<'PY'
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from anthropic import Anthropic
from langchain_anthropic import ChatAnthropic

PROMPT = {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20}
DELTAS = {  # what follows message_start, which has the prompt's tokens in every case
    "claude-once": [{"output_tokens": 7}],
    "claude-repeated": [{**PROMPT, "output_tokens": 7}],
    "claude-twice": [{"output_tokens": 3}, {"output_tokens": 7}],
    "claude-zero": [{"input_tokens": 0, "output_tokens": 7}],
}

class Stub(BaseHTTPRequestHandler):
    def do_POST(self):
        model = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        message = {"id": "m", "type": "message", "role": "assistant", "model": model,
                   "content": [], "stop_reason": None, "usage": {**PROMPT, "output_tokens": 1}}
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.send("message_start", message=message)
        self.send("content_block_start", index=0, content_block={"type": "text", "text": ""})
        self.send("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"})
        self.send("content_block_stop", index=0)
        for usage in DELTAS[model]:
            self.send("message_delta", delta=end, usage=usage)
        self.send("message_stop")

    def send(self, kind, **fields):
        self.wfile.write(f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode())

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
threading.Thread(target=server.serve_forever, daemon=True).start()
options = {"base_url": f"http://127.0.0.1:{server.server_port}", "api_key": "k"}

def sdk(model):
    hi = [{"role": "user", "content": "Hi"}]
    with Anthropic(**options).messages.stream(model=model, messages=hi, max_tokens=9) as stream:
        usage = stream.get_final_message().usage
    return sum(getattr(usage, name) or 0 for name in PROMPT), usage.output_tokens

def langchain(model):
    whole, *rest = ChatAnthropic(model=model, **options).stream("Hi")
    for piece in rest:
        whole += piece
    return whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]

for model in DELTAS:
    for client in sdk, langchain:
        print(f"{model} {client.__name__}: %d in (with cache), %d out" % client(model))
PY
venv/bin/pip freeze | grep -iE '^(anthropic|langchain-anthropic)='
timeout 100 venv/bin/python clients.py | tee seen
diff - seen <<'END' && echo "as on 2026-11-30"
claude-once sdk: 130 in (with cache), 7 out
claude-once langchain: 0 in (with cache), 7 out
claude-repeated sdk: 130 in (with cache), 7 out
claude-repeated langchain: 130 in (with cache), 7 out
claude-twice sdk: 130 in (with cache), 7 out
claude-twice langchain: 0 in (with cache), 10 out
claude-zero sdk: 120 in (with cache), 7 out
claude-zero langchain: 0 in (with cache), 7 out
END
