"""sessions"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        *(
            sa.Column(name, sa.String(), nullable=True)
            for name in ("alias", "alias_digest", "title", "model", "head")
        ),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("message_count", "branches", "erased", "trimmed")
        ),
        sa.Column("summary_upto", sa.String(), nullable=True),
        sa.Column("summary_branch", sa.BigInteger(), nullable=True),
        sa.Column("summary_depth", sa.BigInteger(), nullable=True),
        sa.Column("locked_by", sa.String(), nullable=False),
        sa.Column("locked_until", sa.Float(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        *(
            sa.Column(name, sa.String(), nullable=False)
            for name in ("recent", "usage", "metadata", "params")
        ),
        sa.Column("summary", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    op.create_index(
        op.f("ix_sessions_user_id_alias_digest"),
        "sessions",
        ["user_id", "alias_digest"],
        unique=True,
    )
    op.create_index(
        op.f("ix_sessions_user_id_updated_at_id"), "sessions", ["user_id", "updated_at", "id"]
    )
    op.create_index(op.f("ix_sessions_updated_at_id"), "sessions", ["updated_at", "id"])
    op.create_table(
        "session_messages",
        sa.Column("session_id", sa.String(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("branch", "depth", "start", "base")
        ),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=True),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("prefix", "role", "speaker")),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        *(
            sa.Column(name, sa.Boolean(), nullable=False)
            for name in ("incomplete", "side", "erased")
        ),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("usage", sa.String(), nullable=True),
        sa.Column("message", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name=op.f("fk_session_messages_session_id_sessions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("session_id", "branch", "depth", name=op.f("pk_session_messages")),
    )
    op.create_index(
        op.f("ix_session_messages_session_id_id"),
        "session_messages",
        ["session_id", "id"],
        unique=True,
    )
    op.create_index(
        op.f("ix_session_messages_session_id_prefix"), "session_messages", ["session_id", "prefix"]
    )
