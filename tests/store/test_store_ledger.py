"""The ledger of channels, on both databases."""

import asyncio
import math
import time

import pytest

from supervisor.store.records import ChannelEnded, ChannelPinged, ChannelReady, TurnCounted
from supervisor.store.store import Store
from tests.harness.records import claimed
from tests.store.conftest import MakeStore

COLUMNS = [
    "number", "id", "name", "graph", "user", "session", "source", "instance", "claimed_at", "ready_at", "pid", "pings",
    "last_ping_at", "turns", "ended_at", "cause", "detail", "status", "processes", "killed", "seconds",
]  # fmt: skip


@pytest.mark.parametrize("flushes", [False, True], ids=["at once", "one by one"])
async def test_the_life_of_a_channel_is_one_row(store: Store, flushes: bool) -> None:
    life = [
        claimed("c1", "lobby", at=100.0),
        ChannelReady("c1", 100.5, 4711),
        ChannelPinged("c1", 101.0),
        TurnCounted("c1", 101.5),
        ChannelPinged("c1", 102.0),
        ChannelPinged("c1", 103.0),
        TurnCounted("c1", 103.5),
        ChannelEnded("c1", 104.0, "stopped", "stopped by a client", -15, 3, 1, 0.25),
    ]
    for entry in life:
        store.note(entry)
        if flushes:
            await store.flush()
    [row] = await store.ledger()
    assert list(row) == COLUMNS
    del row["number"]
    assert row == {
        "id": "c1",
        "name": "lobby",
        "graph": "friday",
        "user": "ada",
        "session": "s1",
        "source": "native",
        "instance": "i1",
        "claimed_at": 100.0,
        "ready_at": 100.5,
        "pid": 4711,
        "pings": 3,
        "last_ping_at": 103.0,
        "turns": 2,
        "ended_at": 104.0,
        "cause": "stopped",
        "detail": "stopped by a client",
        "status": -15,
        "processes": 3,
        "killed": 1,
        "seconds": 0.25,
    }


async def test_a_channel_that_lives_is_open(store: Store) -> None:
    store.note(claimed("c1"))
    [row] = await store.ledger()
    assert [row[name] for name in COLUMNS[9:]] == [None, None, 0, None, 0, *[None] * 7]


async def test_filters(store: Store) -> None:
    store.note(claimed("c1", "lobby", at=10.0))
    store.note(claimed("c2", "lobby", at=20.0, graph="echo", user="bob"))
    store.note(claimed("c3", "desk", at=30.0, session=None))
    store.note(claimed("c4", "desk", at=40.0, session="s2"))
    store.note(ChannelEnded("c1", 11.0, "stopped", "", 0))
    store.note(ChannelEnded("c3", 31.0, "crashed", "", -11))

    async def ids(**filters: object) -> list[str]:
        return [row["id"] for row in await store.ledger(**filters)]

    assert await ids() == ["c4", "c3", "c2", "c1"]
    assert await ids(channel="lobby") == ["c2", "c1"]
    assert await ids(graph="echo") == ["c2"]
    assert await ids(user="ada", session="s1") == ["c1"]
    assert await ids(cause="crashed") == ["c3"]
    assert await ids(since=20.0, until=40.0) == ["c3", "c2"]
    assert await ids(open=True) == ["c4", "c2"]
    assert await ids(open=False) == ["c3", "c1"]
    assert await ids(channel="lobby", open=True) == ["c2"]
    assert await ids(channel="' OR 1=1 --") == []
    assert await ids(cause="\0", since=math.inf) == []


async def test_pages(store: Store) -> None:
    for number in range(10):
        store.note(claimed(f"c{number}"))
    seen, before = [], None
    while page := await store.ledger(limit=3, before=before):
        seen += [row["id"] for row in page]
        before = page[-1]["number"]
        store.note(claimed(f"later{before}"))  # what comes meanwhile does not shift the pages
    assert seen == [f"c{number}" for number in reversed(range(10))]
    assert len(await store.ledger(limit=-5)) == 1
    assert await store.ledger(before=2**63 - 1, limit=1)


async def test_it_is_written_soon_without_being_asked(store: Store) -> None:
    store.note(claimed("c1"))
    async with asyncio.timeout(5):
        while store.details()["waiting"]:
            await asyncio.sleep(0.01)
    assert len(await store.ledger()) == 1


async def test_pings_alone_are_written_at_the_end(make: MakeStore, url: str) -> None:
    first = await make(url)
    first.note(claimed("c1"))
    await first.flush()
    for at in (1.0, 2.0):
        first.note(ChannelPinged("c1", at))
    [row] = await first.ledger()
    assert row["pings"] == 0
    await first.close()
    second = await make(url)
    [row] = await second.ledger()
    assert (row["pings"], row["last_ping_at"], row["cause"]) == (2, 2.0, "server_lost")


async def test_only_its_own_open_channels_are_closed_by_a_server(make: MakeStore, url: str) -> None:
    first = await make(url, instance="i1")
    first.note(claimed("c1"))
    first.note(claimed("c2"))
    first.note(ChannelEnded("c2", 5.0, "stopped", "", 0))
    await first.close()
    second = await make(url, instance="i2")
    second.note(claimed("c3"))
    rows = {row["id"]: row["cause"] for row in await second.ledger()}
    # A file belongs to one server, whatever its state folder is called; a database to several.
    assert rows == {"c1": None if url.startswith("postgresql") else "server_lost", "c2": "stopped", "c3": None}
    await second.close()
    third = await make(url, instance="i1")
    rows = {row["id"]: row["cause"] for row in await third.ledger()}
    assert rows == {"c1": "server_lost", "c2": "stopped", "c3": None if url.startswith("postgresql") else "server_lost"}


async def test_hostile_names(store: Store) -> None:
    for number, text in enumerate(["'; DROP TABLE ledger; --", "a\0b", "\ud800", "x" * 10_000, "🎉" * 5000, ""]):
        channel = f"{text}{number}"
        store.note(claimed(channel, text, graph=text, user=text, session=text, source=text))
        store.note(ChannelPinged(channel, 1.0))
        store.note(ChannelEnded(channel, 2.0, "crashed", text * 3, 1))
        [row] = await store.ledger(channel=text, graph=text, user=text, session=text)
        assert (row["pings"], row["cause"]) == (1, "crashed")
    assert (store.lost, store.healthy) == (0, True)


async def test_a_row_that_is_refused_is_alone(store: Store) -> None:
    store.note(claimed("good1"))
    store.note(claimed("bad"))
    store.note(claimed("good2"))
    store.note(ChannelReady("bad", 1.0, 2**80))  # no database has such numbers
    await store.flush()
    assert {row["id"] for row in await store.ledger()} == {"good1", "good2"}
    assert (store.lost, store.healthy) == (1, True)


async def test_old_rows_go_but_not_what_lives(make: MakeStore, url: str) -> None:
    store = await make(url, ledger_keep_days=10)
    old, now = time.time() - 11 * 86_400, time.time()
    for channel, begin, end in (("c1", old, old + 5), ("c2", old, None), ("c3", old, now), ("c4", now, now)):
        store.note(claimed(channel, at=begin))
        if end is not None:
            store.note(ChannelEnded(channel, end, "stopped", "", 0))
    await store.flush()
    assert await store.prune() == {"turns": 0, "conversations": 0, "responses": 0, "ledger": 1}
    assert [row["id"] for row in await store.ledger()] == ["c4", "c3", "c2"]


async def test_thousands_of_lives(store: Store) -> None:
    for number in range(3000):
        store.note(claimed(f"c{number}"))
        store.note(ChannelReady(f"c{number}", 1.0, number))
        store.note(ChannelEnded(f"c{number}", 2.0, "stopped", "", 0, 1, 0, 0.1))
    await store.flush()
    rows = await store.ledger(limit=1000, open=False)
    assert [row["id"] for row in rows] == [f"c{number}" for number in reversed(range(2000, 3000))]
    assert (store.lost, store.details()["waiting"]) == (0, 0)


async def test_the_channels_of_one_user(store: Store) -> None:
    for number, name in enumerate(("lobby", "ada/lobby", "Ada/lobby", "adam/lobby", "a_a/x", "bob/ada/x")):
        store.note(claimed(f"c{number}", name))
    await store.flush()

    async def names(**wanted: str) -> set[str]:
        return {row["name"] for row in await store.ledger(**wanted)}

    assert await names(space="ada") == {"ada/lobby"}
    assert await names(space="Ada") == {"Ada/lobby"}
    assert await names(space="a_a") == {"a_a/x"}
    assert await names(space="%") == await names(space="/") == set()
    assert await names(space="ada", channel="Ada/lobby") == set()
