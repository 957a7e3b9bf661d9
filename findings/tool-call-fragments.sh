#!/usr/bin/env bash
# A tool call comes in pieces. What if every piece repeats the call's id and name, as several
# OpenAI-compatible servers do, or two calls share an index, as Google's endpoint has sent them?
#
# One would expect: fragments are told apart by index and id; what is repeated is repeated.
# What happens: openai-python's stream helper and LangChain glue: the tool "get" is called
# "getget", which no agent has, and in openai-python the id is "call_1call_1". Two calls under one
# index are one call of "getput" there, with both arguments in a row; LangChain keeps them apart.
# An empty id and name in later pieces harm nobody; null (type, too) is an AssertionError in
# openai-python.
# Why a gateway's user cares: "tool getget not found", only when streaming and only with some
# upstreams. A gateway should send id, type and name once, in a call's first piece, and an index
# of its own for every call.
#
# 2026-11-30, the versions pinned below; a stub server on loopback.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -qq --no-compile openai==3.57.0 langchain-openai==1.7.4

cat >clients.py <<'PY'
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from langchain_openai import ChatOpenAI
from openai import OpenAI

STREAMS = {  # id and name of the first piece and of the second, whose arguments are below
    "empty": [("call_1", "get"), ("", "")],
    "repeated": [("call_1", "get"), ("call_1", "get")],
    "null": [("call_1", "get"), (None, None)],
    "two calls": [("call_1", "get"), ("call_2", "put")],
}

def piece(arguments, call):
    (id, name), kind = call, None if call[0] is None else "function"
    whole = {"index": 0, "id": id, "type": kind, "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [whole]}

class Stub(BaseHTTPRequestHandler):
    def do_POST(self):
        model = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        arguments = ['{"a": 1}', '{"a": 2}'] if model == "two calls" else ['{"a": ', "1}"]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for delta in [*map(piece, arguments, STREAMS[model]), {}]:
            choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "tool_calls"}
            whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            self.wfile.write(f"data: {json.dumps(whole | {'choices': [choice]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
threading.Thread(target=server.serve_forever, daemon=True).start()
options = {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "k"}

def openai(model):
    hi = [{"role": "user", "content": "Hi"}]
    with OpenAI(**options).chat.completions.stream(model=model, messages=hi) as stream:
        calls = stream.get_final_completion().choices[0].message.tool_calls
    return [(call.id, call.function.name, call.function.arguments) for call in calls]

def langchain(model):
    whole, *rest = ChatOpenAI(model=model, use_responses_api=False, **options).stream("Hi")
    for piece in rest:
        whole += piece
    return [(call["id"], call["name"], call["args"]) for call in whole.tool_calls]

for model in STREAMS:
    for client in openai, langchain:
        try:
            print(f"{model}, {client.__name__}:", *client(model))
        except AssertionError:
            print(f"{model}, {client.__name__}: AssertionError")
PY
venv/bin/pip freeze | grep -iE '^(openai|langchain-openai)='
timeout 100 venv/bin/python clients.py | tee seen
diff - seen <<'END' && echo "as on 2026-11-30"
empty, openai: ('call_1', 'get', '{"a": 1}')
empty, langchain: ('call_1', 'get', {'a': 1})
repeated, openai: ('call_1call_1', 'getget', '{"a": 1}')
repeated, langchain: ('call_1', 'getget', {'a': 1})
null, openai: AssertionError
null, langchain: ('call_1', 'get', {'a': 1})
two calls, openai: ('call_1call_2', 'getput', '{"a": 1}{"a": 2}')
two calls, langchain: ('call_1', 'get', {'a': 1}) ('call_2', 'put', {'a': 2})
END
