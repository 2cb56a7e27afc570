"""Attachments that are hard to keep, or to delete; and what several servers tell of them."""

import asyncio
import os
import threading
import time
import uuid
from typing import Any

import pytest

from supervisor.attachments.names import owner_of
from supervisor.attachments.retention import DAY
from supervisor.attachments.service import Attachments
from supervisor.attachments.state import Status
from tests.harness.desk import Desk, MakeDesk, closed

NOBODYS = "0d8f4b0e-6f2c-4c7e-9a55-2f6a4f7e1c33"


async def test_a_file_that_stays_does_not_keep_the_others(make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.attachments.retention.BATCH", 2)
    desk = await make_desk()
    states = [(await desk.read(f"{number}.png", b"x"))[0] for number in range(6)]
    strays = [desk.root / owner_of("ada") / f"{NOBODYS[:-1]}{number}" for number in range(3)]
    for path in strays:
        path.mkdir()
    stuck = {states[0].attachment_id, states[3].attachment_id, strays[1].name}
    remove = desk.attachments._files.remove

    def fail(owner: str, attachment_id: str) -> None:
        if attachment_id in stuck:
            raise PermissionError(13, "Permission denied")
        remove(owner, attachment_id)

    monkeypatch.setattr(desk.attachments._files, "remove", fail)
    retention = desk.attachments._retention
    async with asyncio.timeout(30):
        assert await retention.prune(time.time() + 31 * DAY) == 4
        assert await retention.sweep(time.time() + 2 * DAY) == 2
    left = await desk.store.attachments.find([state.attachment_id for state in states])
    assert set(left) == {states[0].attachment_id, states[3].attachment_id}
    assert [path.exists() for path in strays] == [False, True, False]
    stuck.clear()
    assert await retention.prune(time.time() + 31 * DAY) == 2
    assert desk.attachments._books.total == 0


async def test_an_owner_whose_folder_goes_just_now(desk: Desk) -> None:
    """One thread removes the owner's last attachment again and again while another one keeps the next one."""
    files = desk.attachments._files
    kept: list[str] = []
    over = threading.Event()

    def keep() -> None:
        try:
            for _ in range(1500):
                attachment_id = str(uuid.uuid4())
                files.keep(desk.received("a.txt", b"x").path, "ab" * 32, attachment_id, "a.txt")
                kept.append(attachment_id)
        finally:
            over.set()

    def remove() -> None:
        while not over.is_set() or kept:
            if kept:
                files.remove("ab" * 32, kept.pop())

    await asyncio.gather(asyncio.to_thread(keep), asyncio.to_thread(remove))
    assert desk.files() == []
    with pytest.raises(FileNotFoundError):
        files.keep(desk.root / "none", "ab" * 32, NOBODYS, "a.txt")
    assert not files.is_there("ab" * 32, NOBODYS, "a.txt", 1)


@pytest.mark.parametrize("times", [3, 100])
async def test_an_owner_whose_folder_goes_each_time(desk: Desk, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    mkdir, left = os.mkdir, [times]

    def gone(path: Any, *args: Any, **options: Any) -> None:
        if path == NOBODYS and left[0]:
            left[0] -= 1
            (desk.root / ("ab" * 32)).rmdir()
        mkdir(path, *args, **options)

    monkeypatch.setattr(os, "mkdir", gone)
    received = desk.received("a.txt", b"x").path
    if times == 3:
        desk.attachments._files.keep(received, "ab" * 32, NOBODYS, "a.txt")
        assert desk.attachments._files.is_there("ab" * 32, NOBODYS, "a.txt", 1)
    else:
        with pytest.raises(FileNotFoundError):
            desk.attachments._files.keep(received, "ab" * 32, NOBODYS, "a.txt")


async def test_states_of_other_servers_do_not_go_back(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    """Whoever has seen PROGRESS sees no earlier state: on another server, which knows the row only, or on the next."""
    desk = await make_desk(environ=fake)
    state = await desk.upload("a.txt", b"import os, time; os.write(1, b'30 '); time.sleep(1000)")
    async with asyncio.timeout(60):
        while (await desk.attachments.task(state.id)).status is not Status.PROGRESS:
            await asyncio.sleep(0.005)
    other = Attachments(
        desk.store.attachments,
        desk.readers,
        desk.root,
        instance="i2",
        keep_days=1,
        user_bytes=1,
        total_bytes=1,
        queue=1,
    )
    told = await other.task(state.id)
    assert (told.status, told.current) == (Status.PROGRESS, 0)
    await closed(desk)
    again = await make_desk(environ=fake)
    told = await again.attachments.task(state.id)
    assert told.status is Status.PROGRESS


async def test_what_another_server_left_is_ended(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    state, _ = await desk.read("a.png", b"x")
    path = next(path for path in desk.files() if path.name == "a.png")
    rows = desk.store.attachments
    [row] = (await rows.find([state.attachment_id])).values()
    asked, ended = [], []

    async def left(before: float, most: int) -> list[Any]:
        asked.append((before, most))
        return [row]

    async def end(record: Any) -> None:
        ended.append(record)

    monkeypatch.setattr(rows, "left", left)
    monkeypatch.setattr(rows, "end", end)
    assert await desk.attachments._retention.end_left(10 * DAY) == 1
    assert asked == [(9 * DAY, 1000)]
    [record] = ended
    assert (record.id, record.succeeded, record.detail) == (row.id, False, "The file could not be read in time")
    assert not path.exists()
