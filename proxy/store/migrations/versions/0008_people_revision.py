"""a number that changes with users, keys and teams

Triggers keep it, so that it also changes where somebody edits a row by hand. On SQLite they are
gone with a table that is rebuilt: a migration that does so makes them again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

TABLES = ("users", "keys", "teams")
COUNT = "UPDATE people_revision SET revision = revision + 1"


def upgrade() -> None:
    made = op.create_table(
        "people_revision", sa.Column("revision", sa.BigInteger(), nullable=False)
    )
    op.bulk_insert(made, [{"revision": 0}])
    if op.get_bind().dialect.name == "sqlite":
        for table in TABLES:
            for event in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_{event.lower()}_counted AFTER {event} ON {table}"
                    f" BEGIN {COUNT}; END"
                )
        return
    op.execute(
        "CREATE FUNCTION count_people_revision() RETURNS trigger LANGUAGE plpgsql"
        f" SET search_path FROM CURRENT AS $$ BEGIN {COUNT}; RETURN NULL; END $$"
    )
    for table in TABLES:  # deferred: the one row is locked last, so nobody waits in a circle
        op.execute(
            f"CREATE CONSTRAINT TRIGGER {table}_counted AFTER UPDATE OR DELETE ON {table}"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION count_people_revision()"
        )
