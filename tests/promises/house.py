"""A real server with four workers, an honest upstream and one that lies.

And the three witnesses of what was spent.
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
from answers import Answer, Request, Spent
from ledgers import CLOCK, open_ledger
from process import Chattable, chattable
from promises.bases import Base
from promises.clients import Client, Told
from upstream import ScriptedUpstream

from chattable.budget.ledger import HOLD_LEASE_S

WORKERS = 4
SWEEP = 10.0  # seconds between two looks for holds that nobody renews
TESTS = Path(__file__).parent.parent
ADMIN_KEY = "sk-admin-uJ4nWq8LxT2vRz6c"
PLENTY = 1_000_000_000

CONFIG = """
server: {{workers: {workers}}}
database_url: "{database}"
admin_keys: [{admin_key}]
providers:
  honest: {{kind: openai, base_url: "{honest}", api_key: x, retries: 0}}
  liar: {{kind: openai, base_url: "{liar}", api_key: x, retries: 0}}
models:
  m: {{provider: honest, price: {{input: 1, output: 2, cached: 0.5}}}}
  alias: {{provider: honest, model: m, price: {{input: 1, output: 2}}}}
  unpriced: {{provider: honest}}
  tight: {{provider: honest}}
  liar: {{provider: liar, price: {{input: 1, output: 2, cached: 0.5}}}}
  "p/*": {{provider: honest}}
agents:
  thrice:
    use: "chattable.agents.scripted:Scripted"
    replies: [[{{ask: m}}, {{ask: m}}, {{ask: m}}]]
  tooler: {{use: "promises.agents:tooler"}}
budgets:
  default: {{tokens: {plenty}, per: total}}
  journal: "{journal}"
"""


@dataclass(frozen=True)
class Call:
    """What the ledger knows of one call."""

    state: str
    held: int
    used: int

    @property
    def charged(self) -> int:
        """What it costs as things stand."""
        return self.used if self.state in ("settled", "forfeited") else 0


class House:
    """The server under test and everything around it."""

    def __init__(
        self,
        server: Chattable,
        base: Base,
        honest: ScriptedUpstream,
        liar: ScriptedUpstream,
        journal: Path,
    ) -> None:
        self.server, self.base, self.honest, self.liar, self.journal = (
            server,
            base,
            honest,
            liar,
            journal,
        )

    def client(self, name: str, team: str = "") -> Client:
        """A user with a key."""
        if team:
            self.server.admin("POST", "/admin/users", {"name": name, "team": team})
        return Client(self.server.base_url, self.server.user_key(name))

    def limit(
        self, per: str = "total", tokens: int | None = None, models: Any = None, **subject: Any
    ) -> str:
        """A budget; returns its id."""
        wanted = {"subject": subject, "per": per, "tokens": tokens, "models": models}
        return str(self.server.admin("POST", "/admin/budgets", wanted)["id"])

    def row(self, budget: str) -> dict[str, Any]:
        """How a budget stands."""
        found = self.server.admin("GET", "/admin/budgets")["data"]
        return next(row for row in found if row["id"] == budget)

    def entries(self, **of: str) -> list[dict[str, Any]]:
        """What was booked for a user's calls, or on a budget, in the order in which it was."""
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["id"] if found else 0
            page = self.server.admin(
                "GET", f"/admin/ledger?{urlencode(of)}&limit=1000&after={after}"
            )
            found += page["data"]
            if not page["has_more"]:
                return found

    # --- witnesses --------------------------------------------------------------------------------

    def calls(self, name: str) -> dict[str, Call]:
        """The ledger's calls of the models p/`name`-…, by the upstream's name for them."""
        rows = self.base.rows(
            "SELECT model, state, tokens, prompt_tokens + completion_tokens FROM calls"
            f" WHERE model LIKE 'p/{name}-%'"
        )
        assert len({row[0] for row in rows}) == len(rows), "one upstream call was held twice"
        return {model.removeprefix("p/"): Call(*rest) for model, *rest in rows}

    def log(self, name: str) -> dict[str, Spent]:
        """The upstream's own log of the same calls."""
        found = [spent for spent in self.honest.usage_log if spent.model.startswith(f"{name}-")]
        assert len({spent.model for spent in found}) == len(found), "one call was asked twice"
        return {spent.model: spent for spent in found}

    def pending(self) -> int:
        """Holds that are neither settled nor voided nor forfeited."""
        return int(self.base.rows("SELECT COUNT(*) FROM calls WHERE state = 'pending'")[0][0])

    def differences(self) -> int:
        """What `verify` finds wrong."""
        return int(self.server.admin("POST", "/admin/ledger/verify", {})["differences"])

    def settled(self, timeout: float = 30) -> None:
        """Waits until no hold is open."""
        until(lambda: self.pending() == 0, "no hold is pending", timeout)

    def alive(self) -> bool:
        """Fails at once where every later wait would fail in its time."""
        if not self.server.running:
            raise RuntimeError(f"the server has ended:\n{self.server.log()[-2000:]}")
        return True

    # --- workers ----------------------------------------------------------------------------------

    def workers(self) -> list[psutil.Process]:
        """The worker processes that are alive; their supervisor's resource tracker is none."""
        return [process for process in self.server.tree()[1:] if _is_worker(process)]

    def busy(self) -> list[psutil.Process]:
        """Workers with clients, those with the most of them first."""
        port = int(self.server.base_url.rpartition(":")[2])

        def clients(worker: psutil.Process) -> int:
            found = worker.net_connections("tcp4")
            return sum(
                1
                for c in found
                if c.laddr and c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED
            )

        count = {worker: clients(worker) for worker in self.workers()}
        return sorted((w for w in count if count[w]), key=lambda worker: -count[worker])

    def kill(self, worker: psutil.Process) -> None:
        """SIGKILL."""
        worker.send_signal(signal.SIGKILL)
        gone(worker)

    def full(self) -> None:
        """Waits until there are as many workers as there should be."""
        until(lambda: len(self.workers()) == WORKERS, f"{WORKERS} workers")

    def orphans(self) -> list[Path]:
        """Journals of dead processes."""
        return [
            path
            for path in self.journal.glob("*/*.jsonl")
            if not psutil.pid_exists(int(path.name.split("-")[0]))
        ]

    def sweep(self) -> list[str]:
        """What another replica forfeits now."""

        async def work() -> list[str]:
            async with open_ledger(self.base.url) as ledger:
                return await ledger.sweep()

        return asyncio.run(work())

    def recover(self) -> None:
        """Lets leases end.

        A worker that starts books what dead ones left behind, and forfeits the rest.
        """
        self.base.advance(HOLD_LEASE_S + SWEEP)
        self.kill(self.workers()[0])
        until(
            lambda: not self.pending() and not self.orphans(),
            "every hold has ended and every journal is booked",
            60,
        )
        self.full()


@contextmanager
def serving(
    base: Base, folder: Path, honest: ScriptedUpstream, liar: ScriptedUpstream, **env: Any
) -> Iterator[House]:
    """The server on this database and this folder's journal, until the block ends."""
    journal = folder / "journal"
    config = CONFIG.format(
        workers=WORKERS,
        database=base.url,
        admin_key=ADMIN_KEY,
        honest=honest.url,
        liar=liar.url,
        plenty=PLENTY,
        journal=journal,
    )
    settings: dict[str, Any] = {
        "PYTHONPATH": importable(TESTS, TESTS / "promises" / "plans"),
        "CHATTABLE_ADMIN_KEY": ADMIN_KEY,
        "CHATTABLE_LEDGER_CLOCK": CLOCK,
    }
    with chattable(config, directory=folder, timeout=60, **(settings | env)) as server:
        yield House(server, base, honest, liar, journal)


def importable(*folders: Path) -> str:
    """A PYTHONPATH with these folders before what it has."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def until(condition: Callable[..., object], what: str, timeout: float = 30) -> None:
    """Polls until the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(0.02)


def gone(process: psutil.Process) -> None:
    """Waits until a killed process is no more than a name."""
    until(
        lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE,
        f"{process.pid} is dead",
        10,
    )


@contextmanager
def always(answer: Callable[[Request], Answer], upstream: ScriptedUpstream) -> Iterator[None]:
    """Changes every answer of an upstream for a while."""
    before, upstream.reply = upstream.reply, answer
    try:
        yield
    finally:
        upstream.reply = before


def statuses(told: Iterable[Told]) -> set[int]:
    """What became of requests, but for those that a slow database refused.

    The caller shows that these cost nothing.
    """
    return {one.status for one in told if not one.too_slow}


def agree(told: Iterable[Told], calls: dict[str, Call], log: dict[str, Spent]) -> int:
    """Without crashes all three witnesses say the same of every call; returns the sum."""
    acks = {one.call: one.acked for one in told if one.acked is not None}
    ledger = {name: call.charged for name, call in calls.items() if call.charged}
    assert {call.state for call in calls.values()} <= {"settled", "voided"}
    assert acks == ledger == {name: spent.total_tokens for name, spent in log.items()}
    return sum(acks.values())


def bound(told: Sequence[Told], calls: dict[str, Call], log: dict[str, Spent]) -> None:
    """Of every call, with crashes: what was acknowledged is booked.

    And log ≤ ledger ≤ log + what was forfeited.
    """
    wrong = []
    for one in told:
        call, spent = (
            calls.get(one.call, Call("none", 0, 0)),
            log[one.call].total_tokens if one.call in log else 0,
        )
        forfeited = call.held if call.state == "forfeited" else 0
        lost = one.acked is not None and (call.state, call.used) != ("settled", one.acked)
        if lost or call.state == "pending" or not spent <= call.charged <= spent + forfeited:
            wrong.append((one.call, one.status, one.acked, call, spent))
    assert not wrong, (
        f"{len(wrong)} of {len(told)} calls;"
        f" call, status, ack, ledger, log of the first: {wrong[:5]}"
    )
    assert calls.keys() <= {one.call for one in told}


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and any(
            re.match("--multiprocessing-fork", p) for p in process.cmdline()
        )
    except psutil.NoSuchProcess:
        return False
