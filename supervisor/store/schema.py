"""Brings a database to the schema this version knows, in one transaction: all of it or nothing."""

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from supervisor.store.errors import SchemaUnknownError, StoreError
from supervisor.store.tables import VERSION_TABLE

HEAD: Final = "0003"  # the newest of migrations/versions, known here so that Alembic is not imported for nothing
MIGRATIONS: Final = Path(__file__).parent / "migrations"

# What makes others wait: in SQLite it also begins the transaction, which its driver leaves to us.
_BEGIN: Final = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": f"SELECT pg_advisory_xact_lock({int.from_bytes(b'agentd')})",
}


async def version_of(connection: AsyncConnection) -> str | None:
    """The version of the database's schema, None when it has none of ours."""
    if not await connection.run_sync(lambda sync: inspect(sync).has_table(VERSION_TABLE)):
        return None
    found = await connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - a constant
    return None if found is None else str(found)


async def migrate(connection: AsyncConnection) -> None:
    """Bring the schema to HEAD within the transaction of `connection`; another server may do the same just now.

    Raises SchemaUnknownError when it is none this version knows, StoreError when the database is not agentd's.
    """
    await connection.exec_driver_sql(_BEGIN[connection.dialect.name])
    version = await version_of(connection)
    if version == HEAD:
        return
    if version is None and connection.dialect.name == "sqlite":
        tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        if tables:
            raise StoreError(f"it is the database of something else: it has the table {tables[0]}")
    await connection.run_sync(_upgrade, version)


def _upgrade(connection: Connection, version: str | None) -> None:
    # Over 100 ms and 10 MiB, needed only by the first start of a new version.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    if version is not None and version not in known:
        raise SchemaUnknownError(
            f"its schema {version!r} is none this agentd knows (it knows up to {HEAD!r}): a newer one made it; "
            "use that one, or another store"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
