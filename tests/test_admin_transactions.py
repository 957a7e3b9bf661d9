"""What an admin call asks of the database: one transaction where it can be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import migrated_sqlite

from chattable.budget.periodic import Periodic
from chattable.budget.storage.sqlite import SqliteStorage
from chattable.proxy.app import build
from chattable.proxy.config.setting_types import Secret
from chattable.proxy.config.settings import Config

KEY = "sk-an-admin-key-of-the-tests"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes every transaction of requests, by its kind."""
    monkeypatch.setattr(Periodic, "start", lambda _: None)  # others have theirs at any time
    seen: list[str] = []

    def noted(kind: str) -> None:
        method: Callable[..., Any] = getattr(SqliteStorage, kind)

        async def noting(self: SqliteStorage, operation: Any) -> Any:
            seen.append(kind)
            return await method(self, operation)

        monkeypatch.setattr(SqliteStorage, kind, noting)

    noted("run")
    noted("read")
    return seen


BUDGET = {"subject": {"user": "alice"}, "per": "day", "tokens": 9}
CALLS: tuple[tuple[str, str, Any, list[str]], ...] = (
    ("POST", "", BUDGET, ["run"]),
    ("GET", "?user=alice", None, ["read"]),
    ("PATCH", "/{}", {"tokens": 10}, ["run"]),
    ("POST", "/{}/grant", {"tokens": 5, "reason": "a present"}, ["run"]),
    ("DELETE", "/{}", None, ["run"]),
)


async def test_an_admin_call_on_budgets_is_one_transaction(
    tmp_path: Path, asked: list[str]
) -> None:
    url = migrated_sqlite(tmp_path / "x.db")
    edge: Any = build(Config(database_url=url, admin_keys=(Secret(KEY),)))
    made: dict[str, Any] = {}
    async with (
        edge.app.lifespan(),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(edge),
            base_url="http://test",
            headers={"authorization": f"Bearer {KEY}"},
        ) as client,
    ):
        assert (await client.post("/admin/users", json={"name": "alice"})).is_success
        for kind, path, body, expected in CALLS:
            asked.clear()
            where = "/admin/budgets" + path.format(made.get("id"))
            answer = await client.request(kind, where, json=body)
            assert answer.is_success, answer.text
            assert asked == expected, (kind, path)
            made = made or answer.json()
