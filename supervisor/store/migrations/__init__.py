"""How the tables came to be, one step per module of `versions` (Alembic); run by `supervisor.store.schema`."""
