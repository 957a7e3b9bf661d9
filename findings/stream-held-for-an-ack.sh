#!/usr/bin/env bash
# Streams through TensorZero's gateway, as its Python client embeds it, over a connection that is
# kept: the model says a word every 5 ms.
#
# One would expect: words come as they are said, as they do without the gateway.
# What happens: the first stream of a connection does. In most later ones the first word comes at
# once and the second some 40 ms later, with all that was said meanwhile. The gateway leaves Nagle's
# algorithm on: a small packet waits for the acknowledgement of the one before, which the client's
# kernel delays, since it has nothing to send. A try by hand, with a connection of its own, never
# shows it; every client that keeps connections does.
# Why a gateway's user cares: 40 ms later is more than any gateway's own work on a request, and a
# model of 200 tokens a second is read in clumps. It's one option of a socket, TCP_NODELAY. A
# benchmark that looks at the first byte alone, or opens a connection for each request, misses it.
#
# 2026-12-01, the version pinned below; a stub server on loopback, Linux.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -qq --no-compile tensorzero==2026.6.0

cat >streams.py <<'PY'
import http.client, json, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from tensorzero.tensorzero import _start_http_gateway  # what `patch_openai_client` starts

WORDS, EVERY, STREAMS = 12, 0.005, 12

class Stub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(WORDS):
            choice = {"index": 0, "delta": {"content": f" {number}"}, "finish_reason": None}
            self.say({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                      "choices": [choice]})
            time.sleep(EVERY)
        self.say("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def say(self, event):
        text = event if isinstance(event, str) else json.dumps(event)
        data = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, *_):
        pass

def longest_waits(port, path, model):
    """Returns, for each stream of one connection, the longest wait between words in ms."""
    connection, waits = http.client.HTTPConnection("127.0.0.1", port, timeout=10), []
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    for _ in range(STREAMS):
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        times = [time.perf_counter() for line in answer if b'"content"' in line]
        assert len(times) == WORDS, times
        waits.append(max(then - now for now, then in zip(times, times[1:])) * 1000)
    return waits

stub = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
threading.Thread(target=stub.serve_forever, daemon=True).start()
with open("tensorzero.toml", "w") as config:
    config.write(f"""
[gateway.observability]
enabled = false
[models.m]
routing = ["stub"]
[models.m.providers.stub]
type = "openai"
model_name = "m"
api_base = "http://127.0.0.1:{stub.server_port}/v1/"
api_key_location = "none"
""")
gateway = _start_http_gateway(config_file="tensorzero.toml", clickhouse_url=None,
                              postgres_url=None, valkey_url=None, async_setup=False)
port = int(gateway.base_url.split(":")[2].split("/")[0])
directly = longest_waits(stub.server_port, "/v1/chat/completions", "m")
through = longest_waits(port, "/openai/v1/chat/completions", "tensorzero::model_name::m")
print("longest wait between two words, ms, of the streams of one connection")
print("without the gateway", *(f"{wait:6.1f}" for wait in directly))
print("through it         ", *(f"{wait:6.1f}" for wait in through))
held = max(directly) < 35 and sum(wait > 35 for wait in through[1:]) >= STREAMS // 2
print("still so" if held else "CHANGED")
raise SystemExit(not held)
PY
timeout 60 venv/bin/python streams.py
