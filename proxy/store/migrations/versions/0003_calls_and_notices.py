"""calls and notices"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

HELD = ("output", "tokens", "cost")
NAMES = ("user_id", "key_id", "team", "agent", "session", "model", "tag", "request")
USED = ("prompt_tokens", "completion_tokens", "cached_tokens", "used_cost", "tokens_saved")


def upgrade() -> None:
    """Makes `calls` of `holds`: open holds go on, what ended ones used is in the entries."""
    op.create_table(
        "calls",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in HELD),
        sa.Column("accounts", sa.String(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in NAMES),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in USED),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calls")),
    )
    begun = "CAST(lease_until AS BIGINT) - 60"
    op.execute(
        f"INSERT INTO calls (id, at, day, state, lease_until, {', '.join(HELD)}, accounts,"
        f" {', '.join(NAMES)}, {', '.join(USED)}, estimated)"
        f" SELECT id, {begun}, {begun} - ({begun}) % 86400, state, lease_until,"
        f" {', '.join(HELD)}, accounts, user_id, '', '', '', '', model, '', request,"
        " 0, 0, 0, 0, 0, FALSE FROM holds"
    )
    op.drop_index(op.f("ix_holds_state_lease_until"), "holds")
    op.drop_table("holds")
    pending = sa.text("state = 'pending'")
    op.create_index(
        "ix_calls_pending", "calls", ["lease_until"], sqlite_where=pending, postgresql_where=pending
    )
    op.create_index(op.f("ix_calls_day"), "calls", ["day"])
    op.create_index(op.f("ix_calls_user_id_day"), "calls", ["user_id", "day"])
    op.create_table(
        "notices",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("data", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("due", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
    )
    waiting = sa.text("state = 'waiting'")
    op.create_index(
        "ix_notices_waiting", "notices", ["due"], sqlite_where=waiting, postgresql_where=waiting
    )
