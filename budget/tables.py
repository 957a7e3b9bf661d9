"""The ledger's tables. Migrations live with the server's others; a test compares the two."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    false,
    text,
)


def tables(metadata: MetaData) -> None:
    """Adds the ledger's tables to a schema.

    Amounts are integers: tokens and micro-USD; times are unix seconds.
    """
    Table(
        "limits",
        metadata,
        Column("id", String, primary_key=True),
        Column("kind", String, nullable=False),
        Column("subject", String, nullable=False),
        Column("per", String, nullable=False),
        Column("tokens", BigInteger),
        Column("cost", BigInteger),
        Column("models", String),  # JSON text, which is read the same on both databases
        Column("mode", String, nullable=False),
        Column("active", Boolean, nullable=False),
        # 0: made before this was noted
        Column("created_at", BigInteger, nullable=False, server_default=text("0")),
        Index(None, "kind", "subject"),
        Index(None, "created_at", "id"),
    )
    # one balance for each limit, owner (the user, where a limit is for each of them) and window
    Table(
        "accounts",
        metadata,
        Column("limit_id", String, primary_key=True),
        Column("owner", String, primary_key=True),
        Column("period", BigInteger, primary_key=True),
        *(Column(name, BigInteger, nullable=False) for name in BALANCE),
    )
    pending, saving = text("state = 'pending'"), text("tokens_saved > 0")
    Table(  # one model call each: who asked, what was held for it, what it used
        "calls",
        metadata,
        Column("id", String, primary_key=True),
        Column("at", BigInteger, nullable=False),
        # first second of the day, in the budgets' time zone
        Column("day", BigInteger, nullable=False),
        Column("state", String, nullable=False),
        Column("lease_until", Float, nullable=False),
        Column("output", BigInteger, nullable=False),
        Column("tokens", BigInteger, nullable=False),  # held
        Column("cost", BigInteger, nullable=False),  # held
        Column("accounts", String, nullable=False),  # JSON [[limit, owner, period], …]
        *(Column(name, String, nullable=False) for name in CALL_TEXTS),
        *(
            Column(name, BigInteger, nullable=False)
            for name, kind in CHARGE.items()
            if kind == INTEGER
        ),
        Column("estimated", Boolean, nullable=False),
        Column("unknown", Boolean, nullable=False, server_default=false()),
        Index("ix_calls_pending", "lease_until", sqlite_where=pending, postgresql_where=pending),
        Index("ix_calls_saving", "tokens_saved", sqlite_where=saving, postgresql_where=saving),
        Index(None, "day"),
        Index(None, "user_id", "day"),
    )
    Table(
        "entries",
        metadata,
        Column(
            "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        Column("at", BigInteger, nullable=False),
        Column("kind", String, nullable=False),
        Column("hold_id", String, nullable=False, index=True),
        Column("limit_id", String, nullable=False),
        Column("owner", String, nullable=False),
        Column("period", BigInteger, nullable=False),
        *(
            Column(name, BigInteger, nullable=False)
            for name in (*BALANCE, "overdraft_tokens", "overdraft_cost")
        ),
        Column("reason", String, nullable=False),
        Index(None, "limit_id", "owner", "period", "id"),
    )
    waiting = text("state = 'waiting'")
    Table(  # events, until the webhook has taken them
        "notices",
        metadata,
        Column("id", String, primary_key=True),
        Column("at", BigInteger, nullable=False),
        Column("kind", String, nullable=False),
        Column("data", String, nullable=False),  # JSON
        Column("state", String, nullable=False),  # waiting done dead
        Column("attempts", BigInteger, nullable=False),
        Column("due", Float, nullable=False),  # when it may be tried next, by anybody
        Index("ix_notices_waiting", "due", sqlite_where=waiting, postgresql_where=waiting),
    )


TEXT, INTEGER, FLOAT, FLAG = "TEXT", "BIGINT", "DOUBLE PRECISION", "BOOLEAN"  # as in CAST

BALANCE = (
    "spent_tokens",
    "held_tokens",
    "granted_tokens",
    "spent_cost",
    "held_cost",
    "granted_cost",
)
ACCOUNT = {"limit_id": TEXT, "owner": TEXT, "period": INTEGER}
ENTRY = {
    "at": INTEGER, "kind": TEXT, "hold_id": TEXT, **ACCOUNT, **dict.fromkeys(BALANCE, INTEGER),
    "overdraft_tokens": INTEGER, "overdraft_cost": INTEGER, "reason": TEXT,
}  # fmt: skip
CHARGE = {
    **dict.fromkeys(
        ("prompt_tokens", "completion_tokens", "cached_tokens", "used_cost", "tokens_saved"),
        INTEGER,
    ),
    "estimated": FLAG,
    "unknown": FLAG,
}
CALL_TEXTS = ("user_id", "key_id", "team", "agent", "session", "model", "tag", "request")
CALL = {
    "id": TEXT, "at": INTEGER, "day": INTEGER, "state": TEXT, "lease_until": FLOAT,
    "output": INTEGER, "tokens": INTEGER, "cost": INTEGER, "accounts": TEXT,
    **dict.fromkeys(CALL_TEXTS, TEXT), **CHARGE,
}  # fmt: skip
EVENT = {
    "id": TEXT,
    "at": INTEGER,
    "kind": TEXT,
    "data": TEXT,
    "state": TEXT,
    "attempts": INTEGER,
    "due": FLOAT,
}
