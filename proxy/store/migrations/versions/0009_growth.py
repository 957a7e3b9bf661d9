"""indexes for what grows, and when a budget was made"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    made: sa.Column[int] = sa.Column(
        "created_at", sa.BigInteger(), nullable=False, server_default=sa.text("0")
    )
    op.add_column("limits", made)
    op.create_index(op.f("ix_limits_created_at_id"), "limits", ["created_at", "id"])
    saving = sa.text("tokens_saved > 0")
    op.create_index(
        "ix_calls_saving", "calls", ["tokens_saved"], sqlite_where=saving, postgresql_where=saving
    )
    op.create_index(
        op.f("ix_entries_limit_id_owner_period_id"),
        "entries",
        ["limit_id", "owner", "period", "id"],
    )
    op.drop_index(op.f("ix_entries_limit_id_owner_period"), "entries")
