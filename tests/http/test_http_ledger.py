"""The ledger by HTTP, from a real store."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.store.errors import StoreError
from supervisor.store.records import ChannelClaimed, ChannelEnded, ChannelReady
from supervisor.store.store import Store

GRAPHS = ("friday", "echo")


@pytest.fixture
async def house(build: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A house whose ledger has ten lives: the odd ones with echo, the last two open."""
    store = Store(str(tmp_path / "store.db"), instance="test")
    await store.open()
    for number in range(10):
        channel, at = f"id-{number}", 1000.0 + number
        store.note(
            ChannelClaimed(
                channel=channel,
                at=at,
                name=f"room-{number % 3}",
                graph=GRAPHS[number % 2],
                user="ada" if number < 5 else "",
                session=f"s{number}" if number < 2 else None,
                source="native",
            )
        )
        store.note(ChannelReady(channel=channel, at=at + 0.1, pid=100 + number))
        if number < 8:
            cause = "crashed" if number == 3 else "stopped"
            store.note(ChannelEnded(channel=channel, at=at + 50, cause=cause, detail="d", status=0, processes=1))
    yield await build(records=store)
    await store.close()


async def lives(house: Any, query: str = "") -> list[int]:
    answer = await house.get(f"/ledger{query}")
    assert answer.status == 200, answer.content
    return [int(life["id"].removeprefix("id-")) for life in answer.body["lives"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ("?channel=room-0", [9, 6, 3, 0]),
        ("?graph=echo", [9, 7, 5, 3, 1]),
        ("?user=ada", [4, 3, 2, 1, 0]),
        ("?user=", [9, 8, 7, 6, 5]),
        ("?session=s1", [1]),
        ("?cause=crashed", [3]),
        ("?since=1007", [9, 8, 7]),
        ("?until=1002.5", [2, 1, 0]),
        ("?open=1", [9, 8]),
        ("?open=false&graph=friday", [6, 4, 2, 0]),
        ("?channel=nobody", []),
        ("?limit=3", [9, 8, 7]),
    ],
)
async def test_filters(house: Any, query: str, expected: list[int]) -> None:
    assert await lives(house, query) == expected


async def test_a_life(house: Any) -> None:
    [life] = (await house.get("/ledger?session=s0")).body["lives"]
    assert (life["name"], life["graph"], life["user"], life["source"]) == ("room-0", "friday", "ada", "native")
    assert (life["claimed_at"], life["ready_at"], life["ended_at"], life["pid"]) == (1000.0, 1000.1, 1050.0, 100)
    assert (life["cause"], life["status"], life["processes"], life["killed"]) == ("stopped", 0, 1, None)
    assert (await house.get("/channels/room-0")).body["error"]["last"]["id"] == "id-6"


@pytest.mark.parametrize("limit", [1, 3, 5, 10, 1000])
async def test_pages(house: Any, limit: int) -> None:
    found, before = [], ""
    while True:
        answer = await house.get(f"/ledger?limit={limit}{before}")
        found += [life["id"] for life in answer.body["lives"]]
        if answer.body["next"] is None:
            break
        before = f"&before={answer.body['next']}"
    assert found == [f"id-{number}" for number in reversed(range(10))]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("chanel=x", "chanel is no field"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit: it must be an integer (it is 'x')"),
        ("limit=1&limit=2", "limit is given more than once"),
        ("since=yesterday", "since"),
        ("since=nan", "since"),
        ("until=inf", "until"),
        ("open=maybe", "allowed are 1, true, 0, false"),
        ("cause=bored", "'crashed'"),
        ("before=0", "before"),
        ("before=99999999999999999999", "before"),
    ],
)
async def test_queries_that_are_refused(house: Any, query: str, named: str) -> None:
    answer = await house.get(f"/ledger?{query}")
    assert (answer.status, answer.body["error"]["cause"]) == (400, "body_invalid")
    assert named in answer.body["error"]["detail"]


async def test_a_store_in_trouble(build: Any) -> None:
    house = await build()
    house.records.fault = StoreError("the disk is full")
    answer = await house.get("/ledger")
    assert (answer.status, answer.headers["Agentd-Cause"], answer.headers["Retry-After"]) == (
        503,
        "store_unavailable",
        "5",
    )
    assert answer.body["error"]["detail"] == "the disk is full"
