"""Attachments on record, in both databases: whose they are, what has become of them, what they take."""

import time
from typing import Any

import pytest

from supervisor.store.attachments import LEAST_BYTES
from supervisor.store.errors import StoreError
from supervisor.store.records import AttachmentBegun, AttachmentEnded
from supervisor.store.store import Store
from tests.store.conftest import MakeStore

OWNER = "ab" * 32


def begun(number: int = 1, **fields: Any) -> AttachmentBegun:
    return AttachmentBegun(
        **{
            "id": f"a{number}",
            "task": f"t{number}",
            "owner": OWNER,
            "user": "ada\0\ud800",
            "name": f"{number}.txt",
            "mime_type": "text/plain",
            "size": 1000,
            "created_at": time.time(),
            **fields,
        }
    )


def ended(number: int = 1, **fields: Any) -> AttachmentEnded:
    return AttachmentEnded(**{"id": f"a{number}", "ended_at": time.time(), "succeeded": True, **fields})


async def test_a_life(store: Store) -> None:
    rows = store.attachments
    await rows.begin([begun(1), begun(2, name="é\0.txt", size=2**40)])
    row = await rows.of_task("t1")
    assert row is not None
    assert (row.id, row.task, row.owner, row.name, row.size) == ("a1", "t1", OWNER, "1.txt", 1000)
    assert (row.succeeded, row.detail, row.text_bytes, row.tokens) == (None, "", None, 0)
    assert [one.id for one in await rows.unfinished()] == ["a1", "a2"]
    await rows.end(ended(1, text_bytes=12, tokens=3))
    await rows.end(ended(2, succeeded=False, detail="no\0\ud800 good"))
    await rows.end(ended(1, succeeded=False))  # the first one counts
    found = await rows.find(["a2", "a1", "a3"])
    assert set(found) == {"a1", "a2"}
    assert (found["a1"].succeeded, found["a1"].text_bytes, found["a1"].tokens) == (True, 12, 3)
    assert (found["a2"].succeeded, found["a2"].detail) == (False, "no\ufffd\ufffd good")
    assert (found["a2"].name, found["a2"].size) == ("é\ufffd.txt", 2**40)
    assert await rows.unfinished() == []
    assert await rows.of_task("a1") is None
    assert [await rows.delete("a1"), await rows.delete("a1")] == [True, False]
    assert await rows.of_task("t1") is None


async def test_totals_by_owner(store: Store) -> None:
    rows = store.attachments
    assert await rows.totals() == {}
    await rows.begin([begun(1), begun(2), begun(3, owner="cd" * 32), begun(4)])
    await rows.end(ended(2, text_bytes=50))
    await rows.end(ended(4, succeeded=False))
    assert await rows.totals() == {OWNER: 2050 + 2 * LEAST_BYTES, "cd" * 32: 1000 + LEAST_BYTES}


async def test_the_old_ones(store: Store) -> None:
    rows = store.attachments
    await rows.begin([begun(number, created_at=float(number)) for number in range(1, 6)])
    for number in (1, 2, 4):
        await rows.end(ended(number))
    assert [row.id for row in await rows.older(5.0, 10)] == ["a1", "a2", "a4"]  # what is not over is not old
    assert [row.id for row in await rows.older(5.0, 2)] == ["a1", "a2"]
    assert [row.id for row in await rows.older(2.0, 10)] == ["a1"]
    assert [row.id for row in await rows.older(5.0, 2, 1)] == ["a2", "a4"]
    assert await rows.left(9.0, 10) == []  # all are this server's, and it knows of them


async def test_many_at_once(store: Store) -> None:
    rows = store.attachments
    await rows.begin([begun(number) for number in range(1200)])
    assert len(await rows.find([f"a{number}" for number in range(1500)])) == 1200


async def test_each_server_has_its_own(make: MakeStore, url: str, server: object) -> None:
    if server is None:
        pytest.skip("a file has one server")
    ours, theirs = await make(url), await make(url, instance="i2")
    await ours.attachments.begin([begun(1, created_at=1.0)])
    await theirs.attachments.begin([begun(2, created_at=1.0)])
    assert [row.id for row in await ours.attachments.unfinished()] == ["a1"]
    assert [row.id for row in await ours.attachments.left(2.0, 9)] == ["a2"]
    assert await ours.attachments.left(1.0, 9) == []
    await ours.attachments.end(ended(1))
    await theirs.attachments.end(ended(2))
    assert [row.id for row in await ours.attachments.older(2.0, 9)] == ["a1"]
    assert set(await ours.attachments.totals()) == {OWNER}
    assert (await ours.attachments.totals())[OWNER] == 1000 + LEAST_BYTES
    assert set(await ours.attachments.find(["a1", "a2"])) == {"a1", "a2"}


async def test_what_a_killed_server_left_stays_open(make: MakeStore, url: str) -> None:
    first = await make(url)
    await first.attachments.begin([begun(1)])
    await first.close()
    second = await make(url)
    assert [row.id for row in await second.attachments.unfinished()] == ["a1"]


async def test_a_store_that_is_closed(make: MakeStore, url: str) -> None:
    store = await make(url)
    await store.close()
    with pytest.raises(StoreError):
        await store.attachments.begin([begun(1)])
    await store.attachments.end(ended(1))  # which is lost, and counted
    assert store.lost == 1
    for ask in (store.attachments.of_task("t1"), store.attachments.totals(), store.attachments.delete("a1")):
        with pytest.raises(StoreError):
            await ask
