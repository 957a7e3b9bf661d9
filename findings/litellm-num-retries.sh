#!/usr/bin/env bash
# litellm.completion(num_retries=2) and a server that refuses.
#
# One would expect: up to two more tries where a retry can help, with a pause; then litellm's own
# RateLimitError, AuthenticationError and so on, as without num_retries.
# What happens: num_retries needs the package tenacity, which litellm does not install. Without it
# every error is a bare Exception "tenacity import failed": `except RateLimitError` does not catch
# it, and the status and the server's words are gone. With tenacity there, everything is retried,
# at once: a wrong key and a malformed request are sent three times, "x-should-retry: false" is
# not read, and as OpenAI's SDK below retries too, an error 500 costs five calls for two retries.
# Why a gateway's user cares: "tenacity import failed" means that the server refused; its log says
# why. A key that is refused three times within a second need not be an attack.
#
# 2026-11-30, the versions pinned below; a stub server on loopback; waits are not slept.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -qq --no-compile litellm==1.110.2

cat >client.py <<'PY'
import os, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would ask for newer prices
import litellm

class Refuse(BaseHTTPRequestHandler):
    def do_POST(self):
        calls.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(status)
        self.send_header("x-should-retry", retry)
        self.end_headers()
        self.wfile.write(b'{"error": {"message": "The reason."}}')

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
threading.Thread(target=server.serve_forever, daemon=True).start()
root = f"http://127.0.0.1:{server.server_port}"
hi = [{"role": "user", "content": "Hi"}]
litellm.suppress_debug_info = True
time.sleep = lambda _: None
for status, retry in (401, ""), (400, ""), (429, "false"), (500, ""), (500, "false"):
    for options in {}, {"num_retries": 2}:
        calls = []
        try:
            litellm.completion("openai/m", hi, api_base=root, api_key="k", **options)
        except Exception as error:
            reason = "with" if "The reason." in str(error) else "without"
            count = f"{len(calls)} call" + "s" * (len(calls) > 1)
            print(status, retry, *options, f"{count}, {type(error).__name__} {reason} the reason")
PY
venv/bin/pip freeze | grep -E '^(litellm|openai)='
timeout 100 venv/bin/python client.py 2>/dev/null | tee seen
echo "and with tenacity 9.2.1:" | tee -a seen
venv/bin/pip install -qq --no-compile tenacity==9.2.1
timeout 100 venv/bin/python client.py 2>/dev/null | tee -a seen
diff - seen <<'END' && echo "as on 2026-11-30"
401  1 call, AuthenticationError with the reason
401  num_retries 1 call, Exception without the reason
400  1 call, BadRequestError with the reason
400  num_retries 1 call, Exception without the reason
429 false 1 call, RateLimitError with the reason
429 false num_retries 1 call, Exception without the reason
500  3 calls, InternalServerError with the reason
500  num_retries 3 calls, Exception without the reason
500 false 1 call, InternalServerError with the reason
500 false num_retries 1 call, Exception without the reason
and with tenacity 9.2.1:
401  1 call, AuthenticationError with the reason
401  num_retries 3 calls, AuthenticationError with the reason
400  1 call, BadRequestError with the reason
400  num_retries 3 calls, BadRequestError with the reason
429 false 1 call, RateLimitError with the reason
429 false num_retries 3 calls, RateLimitError with the reason
500  3 calls, InternalServerError with the reason
500  num_retries 5 calls, InternalServerError with the reason
500 false 1 call, InternalServerError with the reason
500 false num_retries 3 calls, InternalServerError with the reason
END
