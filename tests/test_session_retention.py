"""When sessions that need not be kept are looked for: never while somebody waits for an answer."""

from types import SimpleNamespace
from typing import Any

from chattable.proxy.config.settings import SessionSettings
from chattable.proxy.sessions.sessions import SWEEP_SESSIONS, Sessions
from chattable.proxy.store.sessions.port import Retention


class Store:
    """A store that has so much to remove, and knows of whom it was asked to."""

    def __init__(self, *left: int) -> None:
        self.left = list(left)
        self.swept: list[str | None] = []

    async def sweep(self, keep: Retention, user: str | None, limit: int) -> int:
        assert (keep.newest, limit) == (500, SWEEP_SESSIONS)
        self.swept.append(user)
        return self.left.pop(0) if self.left else 0


def sessions_in(store: Any) -> Sessions:
    nobody: Any = SimpleNamespace()
    return Sessions(store, SessionSettings(), nobody, nobody)


def turn(user: str, parent: str | None) -> Any:
    """A turn that is stored; without a parent it is the first of its session."""
    plan = SimpleNamespace(off_path=False, length=2, parent=parent, messages=(), new=())
    session = SimpleNamespace(id="conv_1", user_id=user, title="A title")
    return SimpleNamespace(plan=plan, session=session, caller=None, answer=None)


async def test_a_new_session_is_only_noted() -> None:
    store = Store()
    sessions = sessions_in(store)
    for _ in range(3):
        sessions._afterwards(turn("alice", None), None)
    sessions._afterwards(turn("bob", "msg_1"), None)  # goes on
    assert (store.swept, sessions._tasks) == ([], set())
    await sessions._sweep_grown()
    assert store.swept == ["alice"]
    await sessions._sweep_grown()  # nobody has begun one since: nothing is asked
    assert store.swept == ["alice"]


async def test_what_is_removed_is_removed_step_by_step() -> None:
    store = Store(SWEEP_SESSIONS, SWEEP_SESSIONS, 3)
    sessions = sessions_in(store)
    sessions._afterwards(turn("alice", None), None)
    await sessions._sweep_grown()
    assert store.swept == ["alice"] * 3
    await sessions._sweep()
    assert store.swept[3:] == [None]
