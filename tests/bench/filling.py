"""Fills a database as a company does in a month, by bulk SQL that leaves the books balanced."""

import asyncio
import json
import time
from dataclasses import dataclass, fields
from functools import partial

from sqlalchemy import Connection, text

from chattable.agents.chat import Message
from chattable.budget.limits import Limit
from chattable.budget.sql_ledger import SqlLedger
from chattable.budget.tables import BALANCE, CALL, CALL_TEXTS, CHARGE
from chattable.proxy.store import tables
from chattable.proxy.store.database import Database
from chattable.proxy.store.sessions.port import NewItem, TurnRecord
from chattable.proxy.store.sessions.sql_store import SqlSessions

DAY = 86_400
DAYS = 30
MODELS = 10  # that are asked
BUSY = 100  # each call of so many is the first user's
HELD, USED, COST = 900, 250, 40  # tokens and micro-USD of a call
TURNS = 3  # of a session: six messages


@dataclass(frozen=True)
class Sizes:
    """How many rows of each kind."""

    calls: int = 1_000_000
    users: int = 100_000
    budgets: int = 10_000
    sessions: int = 100_000
    models: int = 5_000  # in the config

    def scaled(self, scale: float) -> "Sizes":
        """The same, smaller or larger: at least ten of each."""
        return Sizes(*(max(10, round(getattr(self, field.name) * scale)) for field in fields(self)))


async def fill(url: str, sizes: Sizes) -> None:
    """Fills a migrated database that nobody has written to."""
    database = Database(url)
    await database.start()
    try:
        ledger = SqlLedger(database.storage)
        # The first users have a budget of their own, everybody else the one for each user; one
        # model has a budget of everybody's, whose one account has a tenth of all calls.
        await ledger.put_limit(_limit("lim_default", "each_user", "day"))
        await ledger.put_limit(_limit("lim_everyone", "everyone", "total", ("m",)))
        template = await _session(database)
        await database.storage.alter(partial(_fill, sizes=sizes, template=template))
    finally:
        await database.stop()


def _limit(name: str, kind: str, per: str, models: tuple[str, ...] | None = None) -> Limit:
    return Limit(id=name, kind=kind, subject="", per=per, tokens=10**12, models=models)  # type: ignore[arg-type]


async def _session(database: Database) -> str:
    """A session of six messages, of which the others are copies; returns its id."""
    store = SqlSessions(database.storage)
    session = await store.open("user_0", "template")
    for turn in range(TURNS):
        said = [
            NewItem(message=Message(role, f"{turn}: " + " ".join(f"word{n}" for n in range(20))))
            for role in ("user", "assistant")
        ]
        done = TurnRecord(entries=tuple(said), parent=session.head)
        session = (await store.commit(session, done)).session
    return session.id


def _fill(connection: Connection, sizes: Sizes, template: str) -> None:
    sqlite = connection.dialect.name == "sqlite"
    now = int(time.time())
    given = {
        "now": now,
        "calls": sizes.calls,
        "users": sizes.users,
        "budgets": sizes.budgets,
        "sessions": sizes.sessions,
        "template": template,
    }
    for sql in [*_people(), *_calls(), *_books(), *_sessions()]:
        named = {name: value for name, value in given.items() if f":{name}" in sql}
        connection.execute(text(sql), named)
    connection.execute(text("ANALYZE"))
    if sqlite:
        connection.execute(text("DROP TABLE IF EXISTS sqlite_stat1"))  # no server makes them


def _numbers(count: str) -> str:
    """Rows `i` from 0 on, on either database."""
    return (
        "WITH RECURSIVE numbers(i) AS"
        f" (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :{count})"
    )


def _people() -> list[str]:
    """Users with a key each, and budgets of the first of them."""
    return [
        "INSERT INTO users (id, name, disabled, admin, created_at) "
        + _numbers("users")
        + " SELECT 'user_' || i, 'person-' || i, FALSE, FALSE, :now - 40000000 + i FROM numbers",
        "INSERT INTO keys (id, user_id, name, digest, prefix, trusted, created_at) "
        + _numbers("users")
        + " SELECT 'key_' || i, 'user_' || i, 'k', 'digest-' || i, 'sk-…', FALSE, :now - 40000000"
        " FROM numbers",
        "INSERT INTO limits (id, kind, subject, per, tokens, mode, active) "
        + _numbers("budgets")
        + " SELECT 'lim_' || i, 'user', 'user_' || i, 'day', 1000000000, 'hard', TRUE FROM numbers",
    ]


def _calls() -> list[str]:
    """Settled calls of the last month in their order, scattered over users and models."""
    whose = f"CASE WHEN i % {BUSY} = 0 THEN 0 ELSE i % :users END"
    window = "'\",' || day || ']'"
    own = (
        "CASE WHEN who < :budgets THEN '[\"lim_' || who || '\",\"' ELSE"
        f' \'["lim_default","user_\' || who END || {window}'
    )
    texts = {
        "user_id": "'user_' || who",
        "key_id": "'key_' || who",
        "model": f"CASE i % {MODELS} WHEN 0 THEN 'm' ELSE 'model-' || (i % {MODELS}) END",
        "request": "'req_' || i",
    }
    charge = {"prompt_tokens": USED - 50, "completion_tokens": 50, "used_cost": COST}
    row = {
        "id": "'call_' || ((i * CAST(7919 AS BIGINT)) % 1000000007)",  # scattered, and none twice
        "at": "at",
        "day": "day",
        "state": "'settled'",
        "lease_until": "at + 60",
        "output": HELD - USED,
        "tokens": HELD,
        "cost": COST,
        "accounts": f"'[' || {own} ||"
        f" CASE i % {MODELS} WHEN 0 THEN ',[\"lim_everyone\",\"\",0]' ELSE '' END || ']'",
        **{name: texts.get(name, "''") for name in CALL_TEXTS},
        **{name: charge.get(name, 0) for name in CHARGE},
        "estimated": "FALSE",
        "unknown": "FALSE",
    }
    each = ", ".join(str(row[name]) for name in CALL)
    at = f":now - (i * CAST(104729 AS BIGINT)) % {DAYS * DAY}"
    return [
        f"INSERT INTO calls ({', '.join(CALL)}) "
        + _numbers("calls")
        + f" SELECT {each} FROM (SELECT i, who, at, at - at % {DAY} AS day FROM"
        f" (SELECT i, {whose} AS who, {at} AS at FROM numbers) AS asked) AS dated ORDER BY at"
    ]


def _books() -> list[str]:
    """A hold and a settlement for each call and account, and the balances that they give."""
    columns = (
        "at, kind, hold_id, limit_id, owner, period, spent_tokens, held_tokens, granted_tokens,"
        " spent_cost, held_cost, granted_cost, overdraft_tokens, overdraft_cost, reason"
    )
    own = (
        "SELECT calls.id, at, CASE WHEN limits.id IS NULL THEN 'lim_default' ELSE limits.id END"
        " AS limit_id, CASE WHEN limits.id IS NULL THEN user_id ELSE '' END AS owner,"
        " day AS period FROM calls LEFT JOIN limits ON limits.kind = 'user'"
        " AND limits.subject = user_id"
    )
    common = "SELECT id, at, 'lim_everyone', '', 0 FROM calls WHERE model = 'm'"
    accounts = f"(SELECT * FROM ({own}) AS own UNION ALL {common}) AS held"
    steps = (
        f"(SELECT 0 AS step, 'hold' AS kind, 0 AS spent, {HELD} AS held, 0 AS cost, {COST} AS kept"
        f" UNION ALL SELECT 1, 'settle', {USED}, -{HELD}, {COST}, -{COST}) AS steps"
    )
    sums = ", ".join(f"SUM({name})" for name in BALANCE)
    return [
        f"INSERT INTO entries ({columns}) SELECT at, steps.kind, held.id, limit_id, owner, period,"
        f" spent, held, 0, steps.cost, kept, 0, 0, 0, '' FROM {accounts} CROSS JOIN {steps}"
        " ORDER BY at, held.id, step",
        f"INSERT INTO accounts (limit_id, owner, period, {', '.join(BALANCE)})"
        f" SELECT limit_id, owner, period, {sums} FROM entries GROUP BY limit_id, owner, period",
    ]


def _sessions() -> list[str]:
    """Copies of the first session, of all users in turn."""
    row = {
        "id": "id || '-' || i",
        "user_id": "'user_' || (i % :users)",
        "alias": "'chat-' || i",
        "alias_digest": "'digest-' || i",
        "updated_at": f"updated_at - (i * CAST(104729 AS BIGINT)) % {DAYS * DAY}",
    }
    names = [column.name for column in tables.sessions.c]
    copied = ", ".join(row.get(name, name) for name in names)
    of_message = [column.name for column in tables.session_messages.c]
    messages = ", ".join({"session_id": "sessions.id"}.get(n, f"said.{n}") for n in of_message)
    quoted = ", ".join(f'"{name}"' for name in names)
    return [
        f"INSERT INTO sessions ({quoted}) "
        + _numbers("sessions")
        + f" SELECT {copied} FROM sessions CROSS JOIN numbers WHERE id = :template",
        f"INSERT INTO session_messages ({', '.join(of_message)}) SELECT {messages} FROM sessions"
        " CROSS JOIN session_messages AS said WHERE said.session_id = :template"
        " AND sessions.id <> :template",
    ]


if __name__ == "__main__":  # python tests/bench/filling.py URL '{"calls": 1000}'
    import sys

    asyncio.run(fill(sys.argv[1], Sizes(**json.loads(sys.argv[2]))))
