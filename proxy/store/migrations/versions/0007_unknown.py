"""calls of which nobody knows what they used"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    unknown: sa.Column[bool] = sa.Column(
        "unknown", sa.Boolean(), nullable=False, server_default=sa.false()
    )
    op.add_column("calls", unknown)
