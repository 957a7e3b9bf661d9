"""The tables, once, for both databases; `migrations/versions` says how a database got there.

Times are unix seconds. A change here needs a migration: the contract suite compares the two.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    MetaData,
    String,
    Table,
)

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

Table(  # one row; triggers count in it what is changed or deleted in users, keys and teams
    "people_revision",
    metadata,
    Column("revision", BigInteger, nullable=False),
)

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

sessions = Table(  # refers to no user: a server without users keeps sessions too
    "sessions",
    metadata,
    Column("id", String, primary_key=True),
    Column("user_id", String, nullable=False),
    Column("alias", String),
    Column("alias_digest", String),  # what it is found by
    Column("title", String),
    Column("model", String),
    Column("head", String),
    # on the path to the head, without deleted ones
    Column("message_count", BigInteger, nullable=False),
    Column("branches", BigInteger, nullable=False),  # numbers given
    Column("erased", BigInteger, nullable=False),  # rows that are left of deleted messages
    # depth down from the root at which messages were removed
    Column("trimmed", BigInteger, nullable=False),
    Column("summary_upto", String),
    Column("summary_branch", BigInteger),
    Column("summary_depth", BigInteger),
    Column("locked_by", String, nullable=False),
    Column("locked_until", Float, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("recent", String, nullable=False),  # keys of the last turns
    Column("usage", String, nullable=False),  # this and what follows: JSON text
    Column("metadata", String, nullable=False),
    Column("params", String, nullable=False),
    Column("summary", String),
    Column("state", String, nullable=False),
)
Index(None, sessions.c.user_id, sessions.c.alias_digest, unique=True)
Index(None, sessions.c.user_id, sessions.c.updated_at, sessions.c.id)
Index(None, sessions.c.updated_at, sessions.c.id)

# A message on branch b at depth d follows the one at (b, d - 1), or at (base, d - 1) if the branch
# starts at d: so the end of a path is one range of the primary key for each branch it lies on,
# however long it is.
session_messages = Table(
    "session_messages",
    metadata,
    Column("session_id", ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("branch", BigInteger, primary_key=True, autoincrement=False),
    Column("depth", BigInteger, primary_key=True, autoincrement=False),
    Column("start", BigInteger, nullable=False),
    Column("base", BigInteger, nullable=False),
    Column("id", String, nullable=False),
    Column("parent", String),
    Column("prefix", String, nullable=False),  # digest of the path as clients see it
    Column("role", String, nullable=False),
    Column("speaker", String, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("request_id", String, nullable=False),
    Column("incomplete", Boolean, nullable=False),
    Column("side", Boolean, nullable=False),
    Column("erased", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("usage", String),
    # JSON text; last, so that SQLite reads the others without it
    Column("message", String, nullable=False),
)
Index(None, session_messages.c.session_id, session_messages.c.id, unique=True)
Index(None, session_messages.c.session_id, session_messages.c.prefix)
