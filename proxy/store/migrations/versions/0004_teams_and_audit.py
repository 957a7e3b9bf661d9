"""teams and audit"""

import secrets
import time

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "teams",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
        sa.UniqueConstraint("name", name=op.f("uq_teams_name")),
    )
    _names_become_rows()
    with op.batch_alter_table("users") as batch:
        batch.create_foreign_key(op.f("fk_users_team_teams"), "teams", ["team"], ["id"])
        batch.create_index(op.f("ix_users_team"), ["team"])
    op.create_table(
        "audit",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("actor_name", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=True),
        sa.Column("target_name", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("details", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )


def _names_become_rows() -> None:
    """Teams were names in two places, the users and the budgets; both refer to rows from now on."""
    connection, now = op.get_bind(), time.time()
    names = connection.execute(
        sa.text(
            "SELECT team FROM users WHERE team IS NOT NULL"
            " UNION SELECT subject FROM limits WHERE kind = 'team'"
        )
    ).scalars()
    rows = [
        {
            "id": f"team_{int(now * 1000):012x}{secrets.token_urlsafe(15)}",
            "name": name,
            "created_at": int(now),
        }
        for name in names
    ]
    if rows:
        connection.execute(
            sa.text("INSERT INTO teams (id, name, created_at) VALUES (:id, :name, :created_at)"),
            rows,
        )
    op.execute(
        "UPDATE users SET team = (SELECT id FROM teams WHERE teams.name = users.team)"
        " WHERE team IS NOT NULL"
    )
    op.execute(
        "UPDATE limits SET subject = (SELECT id FROM teams WHERE teams.name = limits.subject)"
        " WHERE kind = 'team'"
    )
