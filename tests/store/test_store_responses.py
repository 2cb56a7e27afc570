"""Kept responses, on both databases."""

import asyncio
import sqlite3
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from supervisor.store import database as database_module
from supervisor.store import writer as writer_module
from supervisor.store.errors import StoreError
from supervisor.store.records import ConversationKey, ResponseEnded, ResponseRow
from supervisor.store.store import Store
from supervisor.store.texts import RESPONSE_BYTES
from tests.harness.postgres import Postgres
from tests.harness.records import KEY, say
from tests.store.conftest import MakeStore, response

DONE = b'{"status":"completed"}'
HOSTILE = [
    "'; DROP TABLE responses; --",
    "$1 ? :name %s \\0000 \\",
    "a\0b",
    "\ud800\udfff",
    "x" * 10_000,
    "🎉" * 10_000,
    "",
]


def ending(response_id: str, status: str = "completed", body: bytes = DONE) -> ResponseEnded:
    return ResponseEnded(id=response_id, status=status, body=body)


async def found(store: Store, response_id: str) -> ResponseRow:
    row = await store.response(response_id)
    assert row is not None
    return row


async def well(store: Store) -> None:
    async with asyncio.timeout(10):
        while not store.healthy or store.details()["waiting"]:
            await asyncio.sleep(0.01)


async def test_a_response_from_begin_to_end(make: MakeStore, url: str) -> None:
    store = await make(url)
    assert await store.response("resp_1") is None
    record = response("resp_1", body=b"\xff\0 not looked into")
    store.begin_response(record)
    row = await found(store, "resp_1")  # at once
    assert asdict(row) == asdict(record) | {"ended_at": None}
    before = time.time()
    await store.end_response(ending("resp_1"))
    row = await found(store, "resp_1")
    assert row.ended_at is not None
    assert before <= row.ended_at <= time.time()
    assert asdict(row) == asdict(record) | {"ended_at": row.ended_at, "status": "completed", "body": DONE}
    await store.close()
    assert await found(await make(url), "resp_1") == row


async def test_of_two_beginnings_and_of_two_endings_the_first_counts(store: Store) -> None:
    store.begin_response(response("a"))
    store.begin_response(response("a", source="agentscope"))
    await store.end_response(ending("a"))
    ended_at = (await found(store, "a")).ended_at
    await store.end_response(ending("a", "cancelled", b"{}"))
    row = await found(store, "a")
    assert (row.source, row.status, row.body, row.ended_at) == ("openai", "completed", DONE, ended_at)

    store.begin_response(response("b"))  # all of it in one transaction
    await asyncio.gather(*(store.end_response(ending("b", status)) for status in ("first", "second")))
    assert (await found(store, "b")).status == "first"
    await store.end_response(ending("nobody's"))
    assert await store.response("nobody's") is None
    assert (store.lost, store.healthy) == (0, True)


async def test_what_is_deleted_stays_deleted(store: Store) -> None:
    turn = await say(store, "q", "a")
    store.begin_response(response("a", turn=turn))
    store.begin_response(response("b"))
    assert await store.delete_response("a")
    assert not await store.delete_response("a")
    await store.end_response(ending("a"))
    assert await store.response("a") is None
    await store.end_response(ending("b"))
    assert (await found(store, "b")).status == "completed"
    assert await store.turn(turn) is not None  # the conversation goes on
    assert (await store.load(KEY)).turns == 1


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_text_everywhere(store: Store, text: str) -> None:
    key = ConversationKey(f"g{text}", f"u{text}", f"s{text}")
    turn = await say(store, "q", "a", key)
    record = response(
        f"r{text}", turn=turn, source=text, graph=key.graph, user=key.user, session=key.session, status=text
    )
    store.begin_response(record)
    store.begin_response(response(f"r{text}2"))
    row = await found(store, record.id)
    assert (row.id, row.body, row.input, row.ended_at) == (record.id, record.body, record.input, None)
    assert ConversationKey(row.graph, row.user, row.session) == key  # exactly, for it is continued by this
    assert (await store.load(ConversationKey(row.graph, row.user, row.session))).turns == 1
    assert await store.turn(row.turn) is not None
    await store.end_response(ending(record.id, text))
    assert (await found(store, record.id)).body == DONE
    assert await store.delete_response(record.id)
    assert (await found(store, f"r{text}2")).ended_at is None
    assert (store.lost, store.healthy) == (0, True)


async def test_what_is_too_large_is_left_out_but_not_its_row(store: Store) -> None:
    most, more = b"x" * RESPONSE_BYTES, b"x" * (RESPONSE_BYTES + 1)
    with capture_logs() as logs:
        store.begin_response(response("fits", body=most, input=most))
        store.begin_response(response("body", body=more))
        store.begin_response(response("input", input=more))
        await store.end_response(ending("input", body=more))
        rows = {name: await found(store, name) for name in ("fits", "body", "input")}
        await store.end_response(ending("body"))
    sizes = {name: (len(row.body), len(row.input)) for name, row in rows.items()}
    assert sizes == {"fits": (len(most), len(most)), "body": (0, 17), "input": (0, 0)}
    assert (rows["input"].status, rows["input"].ended_at is None) == ("completed", False)
    assert (await found(store, "body")).body == DONE
    told = [log for log in logs if log["event"] == "store.response_too_large"]
    assert [(log["response"], log["part"]) for log in told] == [("body", "body"), ("input", "input"), ("input", "body")]
    assert {(log["bytes"], log["most"]) for log in told} == {(len(more), len(most))}
    assert (store.lost, store.healthy) == (0, True)


async def test_many_large_endings_at_once_are_all_written(store: Store) -> None:
    body = b"x" * RESPONSE_BYTES
    names = [f"r{number}" for number in range(12)]  # more than what may wait
    for name in names:
        store.begin_response(response(name))
    await asyncio.gather(*(store.end_response(ending(name, body=body)) for name in names))
    await store.flush()
    for name in names:
        assert len((await found(store, name)).body) == len(body)
    assert store.lost == 0


async def test_an_ending_whose_caller_is_cancelled_is_written(store: Store) -> None:
    names = [f"r{number}" for number in range(8)]  # some of them still wait for their place
    for name in names:
        store.begin_response(response(name))
    tasks = [asyncio.create_task(store.end_response(ending(name, body=b"x" * 1_000_000))) for name in names]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert [(await found(store, name)).status for name in names] == ["completed"] * len(names)


async def test_hundreds_at_once(store: Store) -> None:
    async def one(name: str) -> None:
        store.begin_response(response(name, created_at=float(len(name))))
        assert (await found(store, name)).ended_at is None
        await store.end_response(ending(name, body=name.encode()))

    names = [f"r{number}" for number in range(300)]
    await asyncio.gather(*map(one, names))
    rows = [await found(store, name) for name in names]
    assert [row.body.decode() for row in rows] == names


async def test_old_responses_go(make: MakeStore, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.store.retention.RESPONSES_BATCH", 3)
    monkeypatch.setattr("supervisor.store.retention.PAUSE_SECONDS", 0.0)
    store = await make(url, store_keep_days=10)
    now = time.time()
    for number in range(10):
        store.begin_response(response(f"old{number}", created_at=now - 11 * 86_400))
    store.begin_response(response("young", created_at=now - 9 * 86_400))
    await store.end_response(ending("old1"))
    assert await store.prune() == {"turns": 0, "conversations": 0, "responses": 10, "ledger": 0}
    assert [await store.response(name) for name in ("old0", "old1")] == [None, None]
    await store.end_response(ending("old0"))
    assert await store.response("old0") is None
    assert (await found(store, "young")).ended_at is None
    await store.close()
    for_ever = await make(url, store_keep_days=0)
    for_ever.begin_response(response("ancient", created_at=1.0))
    assert not any((await for_ever.prune()).values())
    assert await for_ever.response("ancient") is not None


async def test_what_a_server_left_open_will_never_end(make: MakeStore, url: str) -> None:
    first = await make(url)
    first.begin_response(response("left"))
    first.begin_response(response("done"))
    await first.end_response(ending("done"))
    done = await found(first, "done")
    await first.close()
    second = await make(url, instance="i2")
    second.begin_response(response("other's"))
    # A file belongs to one server, whatever its state folder is called; a database to several.
    assert ((await found(second, "left")).ended_at is None) == url.startswith("postgresql")
    await second.close()
    third = await make(url, instance="i1")
    third.begin_response(response("own"))
    row = await found(third, "left")
    assert row.ended_at is not None
    assert (row.status, row.body) == ("in_progress", b'{"status":"in_progress"}')
    await third.end_response(ending("left"))
    assert await found(third, "left") == row
    assert await found(third, "done") == done
    assert (await found(third, "own")).ended_at is None
    assert ((await found(third, "other's")).ended_at is None) == url.startswith("postgresql")


async def test_ids_and_ages_are_found_by_an_index(store: Store, url: str) -> None:
    queries = {
        "SELECT body FROM responses WHERE id = 'x'": "ix_responses_id",
        "DELETE FROM responses WHERE created_at < 1.0": "ix_responses_created_at",
        "SELECT number FROM responses WHERE ended_at IS NULL AND instance = 'i1'": "ix_responses_open",
    }
    explain = "EXPLAIN " if url.startswith("postgresql") else "EXPLAIN QUERY PLAN "
    for query, index in queries.items():

        async def plan(connection: AsyncConnection, query: str = query) -> str:
            if url.startswith("postgresql"):  # it reads a small table from end to end
                await connection.execute(text("SET LOCAL enable_seqscan = off"))
            return str((await connection.execute(text(explain + query))).all())

        assert index in await store._database.read(plan)


async def test_a_store_that_is_not_open_says_so(url: str) -> None:
    store = Store(url, instance="i1")
    for call in (store.response("x"), store.delete_response("x")):
        with pytest.raises(StoreError, match="not open"):
            await call
    store.begin_response(response("x"))
    await store.end_response(ending("x"))
    assert store.lost == 2
    await store.close()


# ---------------------------------------------------------------------- a store that fails


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(writer_module, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.1)


async def while_it_fails(store: Store) -> None:
    """Nothing raises but what somebody wants to know; there is a response "running"."""
    store.begin_response(response("new"))
    with pytest.raises(StoreError, match=r"cannot be written|not up to date"):
        await store.flush()
    assert not store.healthy
    async with asyncio.timeout(2):  # nobody waits for a store that is not well
        await store.end_response(ending("running"))
        await store.end_response(ending("new", "failed"))
    for call in (store.response("running"), store.delete_response("new")):
        with pytest.raises(StoreError, match=r"cannot be written|not up to date"):
            await call


async def after_it(store: Store) -> None:
    await well(store)
    assert [(await found(store, name)).status for name in ("running", "new")] == ["completed", "failed"]
    assert await store.delete_response("new")
    assert await store.response("new") is None
    assert (store.lost, store.problem) == (0, "")


@pytest.mark.usefixtures("quick")
async def test_a_file_that_another_program_has_locked(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = Store(str(path), instance="i1")
    await store.open()
    store.begin_response(response("running"))
    await store.flush()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await while_it_fails(store)
    other.execute("ROLLBACK")
    other.close()
    await after_it(store)
    await store.close()


@pytest.mark.usefixtures("quick")
async def test_a_database_that_may_not_be_written(postgres: Postgres) -> None:
    name = await postgres.new_database()
    store = Store(postgres.url(name), instance="i1")
    await store.open()
    store.begin_response(response("running"))
    await store.flush()
    await postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    await while_it_fails(store)
    await postgres.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await after_it(store)
    await postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    store.begin_response(response("cut off"))  # on a connection that is gone
    await store.end_response(ending("cut off"))
    assert (await found(store, "cut off")).status == "completed"
    await store.close()
    await postgres.drop(name)
