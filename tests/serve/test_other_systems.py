"""The server on systems that lack some of the calls that Linux has."""

import sys
from typing import Any

from openai import OpenAI
from process import chattable
from upstream import ScriptedUpstream

CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x}}}}
models: {{m: {{provider: stub}}}}
budgets: {{sync: commit, default: {{tokens: 100000, per: day}}}}
"""
AS_ON_MACOS = """
import os, sys
del os.posix_fallocate, os.fdatasync
from chattable.proxy.__main__ import main
sys.exit(main())
"""


def test_chats_are_answered_and_booked_without_linux_calls() -> None:
    with (
        ScriptedUpstream() as upstream,
        chattable(
            CONFIG.format(url=upstream.url), program=(sys.executable, "-c", AS_ON_MACOS)
        ) as server,
    ):
        client = OpenAI(base_url=f"{server.base_url}/v1", api_key=server.user_key(), max_retries=0)
        messages: Any = [{"role": "user", "content": "one two"}]
        whole = client.chat.completions.create(model="m", messages=messages)
        stream = client.chat.completions.create(model="m", messages=messages, stream=True)
        told = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert whole.choices[0].message.content == told
        assert "Traceback" not in server.log()
