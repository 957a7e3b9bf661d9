"""The tables, once, for both databases; `migrations/versions` says how a database got there.

Times are unix seconds. A change here needs a migration: the contract suite compares the two.
"""

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, ForeignKey, Index, MetaData, String, Table

from chattable.budget.tables import tables as ledger_tables

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

teams = Table(
    "teams",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("team", ForeignKey("teams.id"), index=True),  # its id; everybody else sees its name
    Column("disabled", Boolean, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
Index(None, users.c.created_at, users.c.id)

keys = Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String, nullable=False),
    Column("digest", String, nullable=False),  # never the secret
    Column("prefix", String, nullable=False),
    Column("models", JSON(none_as_null=True)),  # NULL: every model the user may see
    Column("trusted", Boolean, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
)
Index(None, keys.c.digest, unique=True)

audit = Table(  # refers to nothing: it outlives what it tells of
    "audit",
    metadata,
    Column("id", String, primary_key=True),  # sorts by time
    Column("at", BigInteger, nullable=False),
    Column("actor", String, nullable=False),  # a user's id, "admin key" or "command line"
    Column("actor_name", String, nullable=False),
    Column("action", String, nullable=False),
    Column("target", String),  # its id; NULL: not known, for it did not come into being
    Column("target_name", String, nullable=False),
    Column("request_id", String),
    Column("details", String, nullable=False),  # JSON text
    Column("outcome", String, nullable=False),
)

ledger_tables(metadata)

Table(  # what a request with an Idempotency-Key was answered
    "idempotency",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("key", String, primary_key=True),  # its digest
    Column("body", String, nullable=False),  # its digest
    Column("answer", String),  # JSON; NULL: under way
    Column("lease_until", Float, nullable=False),
    Column("created_at", Float, nullable=False, index=True),
)
