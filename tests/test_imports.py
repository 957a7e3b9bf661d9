"""What a server imports before it is asked anything: nothing that its config does not need."""

import json
import subprocess
import sys

from chattable.proxy.config.reader import parse

DEAR = (
    "alembic",
    "asyncpg",
    "openai",
    "redis",
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.orm",
    "tiktoken",
)
BUILT = f"""
import json, sys
from chattable.proxy.app import build
from chattable.proxy.cli import serve
from chattable.proxy.config.reader import parse
build(parse(CONFIG, "config.yaml", {{}}))
print(json.dumps([name for name in {DEAR!r} if name in sys.modules]))
"""
SMALL = b"admin_keys: [sk-admin-4f9a0c6b2e7d8135]\ndatabase_url: 'sqlite:///:memory:'\n"
LARGE = SMALL.replace(b"sqlite:///:memory:", b"postgresql://u:p@127.0.0.1:1/d") + (
    b"redis_url: redis://127.0.0.1:1\ncache: {ttl: 1h}\n"
)


def imported(config: bytes) -> list[str]:
    """What of the dear ones a server with this config has imported."""
    assert parse(config, "config.yaml", {})
    code = BUILT.replace("CONFIG", repr(config))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_a_small_server_imports_nothing_dear() -> None:
    assert imported(SMALL) == []


def test_a_large_one_imports_what_its_config_names() -> None:
    assert imported(LARGE) == ["asyncpg", "redis", "sqlalchemy.ext.asyncio", "sqlalchemy.orm"]
