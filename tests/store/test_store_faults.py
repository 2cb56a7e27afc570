"""What becomes of a store when its disk, its file or its server fails, and that it recovers by itself."""

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from supervisor.store import database as database_module
from supervisor.store import store as store_module
from supervisor.store import writer as writer_module
from supervisor.store.errors import StoreError
from supervisor.store.records import ChannelEnded
from supervisor.store.store import Store
from tests.harness.postgres import Postgres
from tests.harness.records import KEY, begun, claimed, ended, say

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(writer_module, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.1)


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
async def store(disk: Path) -> AsyncIterator[Store]:
    made = Store(str(disk / "store.db"), instance="i1")
    await made.open()
    yield made
    await made.close()


async def well(store: Store) -> None:
    async with asyncio.timeout(10):
        while not store.healthy or store.details()["waiting"]:
            await asyncio.sleep(0.01)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return ballast


async def refused(store: Store, told: str) -> None:
    """A new turn is refused with this reason; endings and the ledger are taken all the same."""
    with pytest.raises(StoreError, match=told):
        await store.begin_turn(begun(text="x" * 100_000))


@needs_root
async def test_a_full_disk(store: Store, disk: Path) -> None:
    running = begun()
    await store.begin_turn(running)
    ballast = fill(disk)
    await refused(store, "cannot be written: .*full")
    await store.end_turn(ended(running.id, "the answer " * 10_000, state={"name": "Ada"}))
    store.note(claimed("c1"))
    store.note(ChannelEnded("c1", 1.0, "stopped", "", 0))
    await refused(store, "full")
    assert not store.healthy
    assert "full" in store.problem
    ballast.unlink()
    await well(store)
    row = await store.turn(running.id)
    assert row is not None
    assert (row.cause, row.text) == ("completed", "the answer " * 10_000)
    assert [found["cause"] for found in await store.ledger()] == ["stopped"]
    assert (await store.load(KEY)).state == {"name": "Ada"}
    assert (store.problem, store.lost) == ("", 0)
    await say(store, "q", "a")


@needs_root
async def test_a_server_that_begins_with_a_full_disk(store: Store, disk: Path) -> None:
    turn = await say(store, "q", "a")
    await store.close()
    ballast = fill(disk)
    with pytest.raises(StoreError, match=r"store\.db cannot be opened: .*the disk is full"):
        await Store(str(disk / "store.db"), instance="i1").open()
    ballast.unlink()
    again = Store(str(disk / "store.db"), instance="i1")
    await again.open()
    assert await again.turn(turn) is not None
    await again.close()


@needs_root
async def test_a_full_disk_at_the_very_first_start(disk: Path) -> None:
    ballast = fill(disk)
    with pytest.raises(StoreError, match=r"store\.db cannot be opened: .*the disk is full"):
        await Store(str(disk / "store.db"), instance="i1").open()
    ballast.unlink()
    store = Store(str(disk / "store.db"), instance="i1")
    await store.open()
    await say(store, "q", "a")
    await store.close()


async def test_a_connection_that_may_only_read(tmp_path: Path) -> None:
    """What a disk that the kernel has made read-only answers; a disk with open files cannot be made so by a test."""
    store = Store(str(tmp_path / "store.db"), instance="i1")
    await store.open()
    running = begun()
    await store.begin_turn(running)
    connection = store._database._writing
    assert connection is not None
    driver = (await connection.get_raw_connection()).driver_connection
    await driver.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match="cannot be written: attempt to write a readonly database"):
        await store.begin_turn(begun())
    await store.end_turn(ended(running.id, "a"))  # by a new connection
    await well(store)
    assert [turn.text for turn in await store.conversation(KEY)] == ["a"]
    await store.close()


@needs_root
async def test_a_read_only_disk(disk: Path) -> None:
    store = Store(str(disk / "store.db"), instance="i1")
    await store.open()
    turn = await say(store, "q", "a")
    await store.close()
    before = (disk / "store.db").read_bytes()
    mount("-o", "remount,ro", str(disk))
    try:
        with pytest.raises(StoreError, match=r"store\.db cannot be opened: .*[Rr]ead-only"):
            await Store(str(disk / "store.db"), instance="i1").open()
        with pytest.raises(StoreError, match=r"new\.db cannot be opened: .*[Rr]ead-only"):
            await Store(str(disk / "new.db"), instance="i1").open()
    finally:
        mount("-o", "remount,rw", str(disk))
    assert (disk / "store.db").read_bytes() == before
    await store.open()
    assert await store.turn(turn) is not None
    await store.close()


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere/store\.db cannot be opened: .*No such file"):
        await Store(str(tmp_path / "nowhere" / "store.db"), instance="i1").open()
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=r"cannot be opened: .*[Ii]s a directory"):
        await Store(str(tmp_path / "folder"), instance="i1").open()


@pytest.mark.parametrize("damage", ["no database", "cut off", "header", "pages"])
async def test_a_damaged_file_is_left_as_it_is(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "store.db"
    store = Store(str(path), instance="i1")
    await store.open()
    for number in range(50):
        await say(store, f"q{number}", "a" * 1000)
    await store.close()
    whole = path.read_bytes()
    path.write_bytes(
        {
            "no database": b"this is a letter, not a database\n" * 1000,
            "cut off": whole[: len(whole) // 3],
            "header": b"\xff" * 100 + whole[100:],
            "pages": whole[:100] + b"\xaa" * (len(whole) - 100),
        }[damage]
    )
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"store\.db cannot be (opened|read): .*(not a database|malformed)"):
        await Store(str(path), instance="i1").open()
    assert path.read_bytes() == before


async def test_a_file_that_another_program_has_locked(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(str(path), instance="i1")
    await store.open()
    running = begun()
    await store.begin_turn(running)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.005)
            beats += 1

    beating = asyncio.create_task(beat())
    with pytest.raises(StoreError, match="cannot be written: database is locked"):
        await store.begin_turn(begun())
    beating.cancel()
    assert beats > 5  # the loop went on while SQLite waited for the lock
    await store.end_turn(ended(running.id, "a"))
    other.execute("ROLLBACK")
    other.close()
    await well(store)
    assert [turn.text for turn in await store.conversation(KEY)] == ["a"]
    await store.close()


async def test_a_file_that_is_deleted_under_the_server(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(str(path), instance="i1")
    await store.open()
    await say(store, "q", "a")
    for file in tmp_path.glob("store.db*"):
        file.unlink()
    with pytest.raises(StoreError):
        for _ in range(3):  # the connections that are open may go on for a while, nothing may crash
            await say(store, "q", "a")
            await store._database._discard()
    await store.close()


# ---------------------------------------------------------------------- PostgreSQL


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Postgres]:
    """A server of the test's own, which it may ill-treat."""
    made = Postgres()
    try:
        made.start()
        yield made
    finally:
        made.stop()


async def test_a_server_that_is_restarted_in_the_middle_of_work(own: Postgres) -> None:
    store = Store(own.url(), instance="i1")
    await store.open()
    running = begun()
    await store.begin_turn(running)
    await store.load(KEY)
    own.halt()
    with pytest.raises(StoreError, match="cannot be written"):
        await store.begin_turn(begun())
    with pytest.raises(StoreError, match=r"cannot be (read|written)|not up to date"):
        await store.load(KEY)
    await store.end_turn(ended(running.id, "a", state={"name": "Ada"}))
    store.note(claimed("c1"))
    with pytest.raises(StoreError):
        await store.flush()
    assert not store.healthy
    own.resume()
    await say(store, "q2", "a2")  # the first turn after it is there again
    await well(store)
    assert [turn.text for turn in await store.conversation(KEY)] == ["a2", "a"]
    assert [row["id"] for row in await store.ledger()] == ["c1"]
    assert (store.lost, store.problem) == (0, "")
    await store.close()


async def test_connections_that_are_cut(postgres: Postgres) -> None:
    name = await postgres.new_database()
    store = Store(postgres.url(name), instance="i1")
    await store.open()
    for _ in range(3):
        await say(store, "q", "a")
        await store.load(KEY)
        await postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        running = begun()  # nobody notices
        await store.begin_turn(running)
        await postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        await store.load(KEY)
        await postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        await store.end_turn(ended(running.id, "b"))
    assert (await store.load(KEY)).turns == 6
    assert (store.healthy, store.lost) == (True, 0)
    await store.close()
    await postgres.drop(name)


async def test_a_server_that_hangs(own: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BEGIN_SECONDS", 0.3)
    monkeypatch.setattr(database_module, "WRITE_SECONDS", 0.6)
    monkeypatch.setattr(database_module, "DISCARD_SECONDS", 0.1)
    store = Store(own.url(), instance="i1")
    await store.open()
    await say(store, "q", "a")
    own.signal(signal.SIGSTOP)
    try:
        record = begun()
        with pytest.raises(StoreError, match=r"did not answer within 0\.3 s"):
            await store.begin_turn(record)
        async with asyncio.timeout(5):
            while store.healthy:
                await asyncio.sleep(0.01)
    finally:
        own.signal(signal.SIGCONT)
    await well(store)
    row = await store.turn(record.id)
    assert row is None or row.cause == "store_unavailable"
    await say(store, "q", "a")
    await store.close()


async def test_a_server_that_is_not_there(own: Postgres) -> None:
    url = own.url()
    own.halt()
    with pytest.raises(StoreError, match=r"postgresql://agentd@.* cannot be opened: .*No such file"):
        await Store(url, instance="i1").open()
    with pytest.raises(StoreError, match="cannot be opened: "):
        await Store("postgresql://u:hush@127.0.0.1:1/x", instance="i1").open()
    own.resume()
    with pytest.raises(StoreError, match='cannot be opened: database "nothing" does not exist'):
        await Store(own.url("nothing"), instance="i1").open()


async def test_a_database_that_may_not_be_written(postgres: Postgres) -> None:
    name = await postgres.new_database()
    store = Store(postgres.url(name), instance="i1")
    await store.open()
    running = begun()
    await store.begin_turn(running)
    await postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    with pytest.raises(StoreError, match="cannot be written: cannot execute INSERT in a read-only transaction"):
        await store.begin_turn(begun())
    await store.end_turn(ended(running.id, "a"))
    assert not store.healthy
    await postgres.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await well(store)
    assert [turn.text for turn in await store.conversation(KEY)] == ["a"]
    await store.close()
    await postgres.drop(name)
