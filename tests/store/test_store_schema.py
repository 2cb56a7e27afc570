"""The schema: migrated at open, whole or not at all, and what is not known is refused."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from supervisor.store import schema
from supervisor.store.address import parse_address
from supervisor.store.conversations import begun_work, ended_work
from supervisor.store.database import Database
from supervisor.store.errors import SchemaUnknownError, StoreError
from supervisor.store.ledger import Ledger
from supervisor.store.records import ChannelEnded
from supervisor.store.store import Store
from supervisor.store.tables import VERSION_TABLE, add_partial_indexes, metadata
from tests.harness.records import KEY, begun, claimed, ended, say
from tests.store.conftest import MakeStore, response

ROOT = Path(__file__).parents[2]
NEXT = f"{int(schema.HEAD) + 1:04}"


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    return ScriptDirectory.from_config(config)


async def tables_of(url: str) -> set[str]:
    database = Database(parse_address(url))
    database._engine = database._make_engine()

    async def read(connection: AsyncConnection) -> set[str]:
        return set(await connection.run_sync(_names))

    try:
        return await database.read(read)
    finally:
        await database.close()


def _names(connection: Connection) -> list[str]:
    return list(connection.dialect.get_table_names(connection))


async def execute(url: str, statement: str) -> None:
    """Whatever somebody does to the database while no server runs."""
    database = Database(parse_address(url))
    database._engine = database._make_engine()
    try:
        async with database._connection(5.0) as connection:
            await connection.execute(text(statement))
    finally:
        await database.close()


def copied(folder: Path, newest: str) -> Path:
    """The migrations up to this one, in a folder of their own."""
    (folder / "versions").mkdir(parents=True)
    shutil.copy(schema.MIGRATIONS / "env.py", folder)
    for step in (schema.MIGRATIONS / "versions").glob("r*.py"):
        if step.stem <= f"r{newest}":
            shutil.copy(step, folder / "versions")
    return folder


def with_one_more(folder: Path, upgrade: str) -> Path:
    """All migrations there are and, as NEXT, one that does this."""
    copied(folder, schema.HEAD)
    (folder / "versions" / f"r{NEXT}.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\nrevision = {NEXT!r}\ndown_revision = {schema.HEAD!r}\n"
        f"def upgrade():\n    {upgrade}\n"
    )
    return folder


def test_the_constant_is_the_newest_migration() -> None:
    assert scripts().get_heads() == [schema.HEAD]


async def test_the_migrations_make_the_tables_there_are(make: MakeStore, url: str) -> None:
    store = await make(url)

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        add_partial_indexes()
        return list(compare_metadata(context, metadata))

    assert await store._database.read(lambda connection: connection.run_sync(differences)) == []


async def test_a_newer_schema_is_refused(make: MakeStore, url: str) -> None:
    store = await make(url)
    turn = await say(store, "q", "a")
    await store.close()
    await execute(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(SchemaUnknownError, match=r"schema '9999' is none this agentd knows .* a newer one made it"):
        await make(url)
    await execute(url, f"UPDATE {VERSION_TABLE} SET version_num = '{schema.HEAD}'")
    assert (await (await make(url)).turn(turn)) is not None


async def test_a_migration_that_fails_leaves_nothing(
    make: MakeStore, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = with_one_more(
        tmp_path / "migrations", "op.create_table('half', sa.Column('x', sa.Text)); op.execute('no SQL at all')"
    )
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", broken)
        patch.setattr(schema, "HEAD", NEXT)
        with pytest.raises(StoreError, match="cannot be opened"):
            await make(url)
    assert await tables_of(url) == set()

    store = await make(url)  # and neither does a step that fails later
    turn = await say(store, "q", "a")
    await store.close()
    before = await tables_of(url)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", broken)
        patch.setattr(schema, "HEAD", NEXT)
        with pytest.raises(StoreError, match="cannot be opened"):
            await make(url)
    assert await tables_of(url) == before
    assert (await (await make(url)).turn(turn)) is not None


async def test_a_step_is_taken_from_the_one_before(
    make: MakeStore, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = await make(url)
    turn = await say(store, "q", "a")
    await store.close()
    newer = with_one_more(
        tmp_path / "migrations %41",  # a % is nothing special in a path
        "op.add_column('turns', sa.Column('more', sa.Text))",
    )
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    monkeypatch.setattr(schema, "HEAD", NEXT)
    again = await make(url)
    assert await again.turn(turn) is not None
    assert await again._database.read(schema.version_of) == NEXT


async def test_a_store_of_before_there_were_responses(
    make: MakeStore, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old, past = Database(parse_address(url)), "0001"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", copied(tmp_path / "migrations", past))
        patch.setattr(schema, "HEAD", past)
        await old.open()
    assert await old.read(schema.version_of) == past
    done, running = begun(text="I am Ada"), begun()
    future = asyncio.get_running_loop().create_future
    works = [begun_work(done, "i1", future()), ended_work(ended(done.id, "Hello", state={"name": "Ada"}), None)]
    works.append(begun_work(running, "i1", future()))
    lives = Ledger("i1", works.append)
    lives.note(claimed("c1"))
    lives.note(claimed("c2"))
    lives.note(ChannelEnded("c2", 5.0, "stopped", "", 0))
    lives.close()
    for work in works:
        await old.write({stage: [row] for stage, row in work.writes})
    await old.close()
    assert "responses" not in await tables_of(url)

    store = await make(url)
    assert await store._database.read(schema.version_of) == schema.HEAD
    assert [(turn.id, turn.text, turn.cause) for turn in await store.conversation(KEY)] == [
        (running.id, "", "server_lost"),
        (done.id, "Hello", "completed"),
    ]
    conversation = await store.load(KEY)
    assert [message["content"] for message in conversation.history] == ["I am Ada", "Hello"]
    assert (conversation.state, conversation.turns) == ({"name": "Ada"}, 2)
    assert {row["id"]: row["cause"] for row in await store.ledger()} == {"c1": "server_lost", "c2": "stopped"}
    await say(store, "and then?", "more")
    store.begin_response(response("resp_1"))
    assert await store.response("resp_1") is not None


async def test_servers_that_begin_at_the_same_time(server: object, url: str) -> None:
    """Of a database they all make one schema; of a file one of them gets it."""
    stores = [Store(url, instance=f"i{number}") for number in range(4)]
    results = await asyncio.gather(*(store.open() for store in stores), return_exceptions=True)
    assert [type(result).__name__ for result in results] == (
        ["NoneType", *["StoreHeldError"] * 3] if server is None else ["NoneType"] * 4
    )
    for store, result in zip(stores, results, strict=True):
        if result is None:
            await say(store, "q", "a")
            assert (await store.load(KEY)).turns
        await store.close()


async def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()
    with pytest.raises(StoreError, match=r"photos\.db cannot be opened: it is the database of something else.*photos"):
        await Store(str(path), instance="i1").open()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("photos",)]
    connection.close()


async def test_alembic_is_imported_only_when_there_is_something_to_migrate(make: MakeStore, url: str) -> None:
    await (await make(url)).close()
    code = (
        "import asyncio, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from supervisor.store.store import Store\n"
        "async def main():\n"
        f"    store = Store({url!r}, instance='i1')\n"
        "    await store.open()\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
        "print('alembic' in sys.modules, file=sys.stderr)\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stderr == "False\n"
