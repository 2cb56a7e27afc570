"""What goes wrong with a store, in words that name it."""

from pathlib import Path


class StoreError(RuntimeError):
    """The store cannot be used, or did not take what was written; the message says why, without secrets.

    `uncertain` when the write may have taken place all the same: the answer to it is what got lost.
    """

    def __init__(self, reason: str, *, uncertain: bool = False) -> None:
        super().__init__(reason)
        self.uncertain = uncertain


class StoreHeldError(StoreError):
    """Another process has this SQLite database."""

    def __init__(self, database: Path, holder: int | None) -> None:
        who = "another process" if holder is None else f"process {holder}"
        super().__init__(f"the store {database} is used by {who}; give each server a store of its own, or PostgreSQL")
        self.database = database
        self.holder = holder


class SchemaUnknownError(StoreError):
    """The database has a schema this version of agentd does not know: a newer one made it."""
