"""Who is read when: owners take turns, nobody holds all readers, and plain text does not wait for documents."""

import asyncio
import time

import pytest

from supervisor.attachments.slots import Slots
from supervisor.attachments.state import Status
from tests.harness.desk import MakeDesk

PATIENCE = 20.0


class Crowd:
    """Files that hold a slot until they are let go."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.reading: list[str] = []
        self.begun: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ends: dict[str, asyncio.Event] = {}

    async def _read(self, name: str, patience: float) -> None:
        async with self.slots.held(name[0], patience):
            self.reading.append(name)
            self.begun.append(name)
            try:
                await self.ends[name].wait()
            finally:
                self.reading.remove(name)

    async def come(self, *names: str, patience: float = PATIENCE) -> None:
        for name in names:
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._read(name, patience))
        await settle()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_owners_take_turns() -> None:
    crowd = Crowd(Slots(1))
    await crowd.come("b1", "b2", "b3", "b4", "a1", "a2", "c1")
    for _ in range(7):
        assert len(crowd.reading) == 1
        await crowd.end(crowd.reading[0])
    assert crowd.begun == ["b1", "b2", "a1", "c1", "b3", "a2", "b4"]
    assert (crowd.slots._free, dict(crowd.slots._held), dict(crowd.slots._waiting)) == (1, {}, {})


async def test_one_is_left_for_the_others() -> None:
    crowd = Crowd(Slots(3))
    await crowd.come("b1", "b2", "b3", "b4")
    assert crowd.reading == ["b1", "b2"]
    await crowd.come("a1", "a2")
    assert crowd.reading == ["b1", "b2", "a1"]
    await crowd.end("a1")
    assert crowd.reading == ["b1", "b2", "a2"]
    await crowd.end("b2")
    assert crowd.reading == ["b1", "a2", "b3"]
    for task in crowd.tasks.values():
        task.cancel()
    await settle()
    assert (crowd.slots._free, dict(crowd.slots._held), dict(crowd.slots._waiting)) == (3, {}, {})


async def test_whoever_gives_up_takes_nothing_along() -> None:
    crowd = Crowd(Slots(1))
    await crowd.come("b1", "c1")
    await crowd.come("b2", "a1", patience=0.05)
    with pytest.raises(TimeoutError):
        await crowd.tasks["b2"]
    with pytest.raises(TimeoutError):
        await crowd.tasks["a1"]
    crowd.ends["b1"].set()
    while crowd.reading != ["c1"]:
        await asyncio.sleep(0)
    # Cancelled at the very moment when it is given the slot.
    await crowd.come("d1")
    crowd.slots._give("c")
    crowd.tasks["d1"].cancel()
    await settle()
    assert crowd.begun == ["b1", "c1"]
    crowd.slots._free -= 1
    crowd.slots._held["c"] += 1
    await crowd.end("c1")
    assert (crowd.slots._free, dict(crowd.slots._held), dict(crowd.slots._waiting)) == (1, {}, {})


async def test_a_flood_of_one_owner_fails_its_own_files_only(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    """Documents of bob that are never read to their end; those of alice are, and so is her text."""
    desk = await make_desk(environ=fake, at_once=2, seconds=6.0)
    sleeping = b"import time; time.sleep(1000)"
    good = b'open("text", "w").write("x"); open("result", "w").write(\'{"outcome": "text"}\')'
    many = [desk.received("a.pdf", sleeping) for _ in range(10)]
    flood = await desk.attachments.accept("bob", many)
    while not any(state.status is Status.STARTED for state in flood):
        await asyncio.sleep(0.005)
    began = time.monotonic()
    for name in ("a.txt", "README", "a.pdf"):
        state, given = await desk.read(name, good, "alice")
        assert (state.status, given is not None) == (Status.SUCCESS, True)
    assert time.monotonic() - began < 3.0
    for state in flood:
        assert (await desk.over(state)).status is Status.FAILURE
    assert time.monotonic() - began < 10.0


async def test_a_flood_of_texts_leaves_the_documents(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    desk = await make_desk(environ=fake, at_once=1, seconds=6.0)
    for _ in range(5):
        await desk.upload("a.txt", b"import time; time.sleep(1000)", "bob")
    state, _ = await desk.read("a.html", b'open("result", "w").write(\'{"outcome": "none"}\')', "bob")
    assert state.status is Status.SUCCESS
