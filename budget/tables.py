"""The ledger's tables. Migrations live with the server's others; a test compares the two."""

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table


def tables(metadata: MetaData) -> None:
    """Adds the ledger's tables to a schema. Amounts are integers: tokens and micro-USD; times are unix seconds."""
    Table(
        "limits",
        metadata,
        Column("id", String, primary_key=True),
        Column("kind", String, nullable=False),
        Column("subject", String, nullable=False),
        Column("per", String, nullable=False),
        Column("tokens", BigInteger),
        Column("cost", BigInteger),
        Column("models", String),  # JSON text: the law reads it the same on both databases
        Column("mode", String, nullable=False),
        Column("active", Boolean, nullable=False),
        Index(None, "kind", "subject"),
    )
    Table(  # one balance for each limit, owner (the user, where a limit is for each of them) and window
        "accounts",
        metadata,
        Column("limit_id", String, primary_key=True),
        Column("owner", String, primary_key=True),
        Column("period", BigInteger, primary_key=True),
        *(Column(name, BigInteger, nullable=False) for name in BALANCE),
    )
    Table(
        "holds",
        metadata,
        Column("id", String, primary_key=True),
        Column("state", String, nullable=False),
        Column("lease_until", Float, nullable=False),
        Column("output", BigInteger, nullable=False),
        Column("tokens", BigInteger, nullable=False),
        Column("cost", BigInteger, nullable=False),
        Column("accounts", String, nullable=False),  # JSON [[limit, owner, period], …], in the order of their locks
        Column("user_id", String, nullable=False),
        Column("model", String, nullable=False),
        Column("request", String, nullable=False),
        Index(None, "state", "lease_until"),
    )
    Table(
        "entries",
        metadata,
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("at", BigInteger, nullable=False),
        Column("kind", String, nullable=False),
        Column("hold_id", String, nullable=False, index=True),
        Column("limit_id", String, nullable=False),
        Column("owner", String, nullable=False),
        Column("period", BigInteger, nullable=False),
        *(Column(name, BigInteger, nullable=False) for name in (*BALANCE, "overdraft_tokens", "overdraft_cost")),
        Column("reason", String, nullable=False),
        Index(None, "limit_id", "owner", "period"),
    )


BALANCE = ("spent_tokens", "held_tokens", "granted_tokens", "spent_cost", "held_cost", "granted_cost")
