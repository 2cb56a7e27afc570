"""What Alembic runs to migrate: on the connection it is given, in the transaction that is open on it."""

from alembic import context

from supervisor.store.tables import VERSION_TABLE, add_partial_indexes, metadata

add_partial_indexes()
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # of SQLite too: the transaction is begun in so many words
)
with context.begin_transaction():
    context.run_migrations()
