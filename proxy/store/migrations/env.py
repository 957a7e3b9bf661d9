"""Alembic's entry point: runs the scripts on the connection and in the transaction it is given."""

from alembic import context

from chattable.proxy.store.tables import metadata

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=metadata,
    on_version_apply=attributes["on_version_apply"],
    render_as_batch=True,  # SQLite changes a table by rebuilding it
)
with context.begin_transaction():
    context.run_migrations()
