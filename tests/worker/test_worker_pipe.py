"""The worker's pipe over real FIFOs, inside this process."""

import asyncio
import json
import os
from typing import Any

import pytest

from worker.frames import Bad, FrameError, Splitter
from worker.outbox import FIRST_FRAMES, Outbox
from worker.pipe import Pipe


class Supervisor:
    """The other end of the FIFOs."""

    def __init__(self, folder: Any) -> None:
        flags = os.O_RDWR | os.O_NONBLOCK
        for name in ("down", "up"):
            os.mkfifo(folder / name)
        self.down, self.up = os.open(folder / "down", flags), os.open(folder / "up", flags)
        self.splitter = Splitter()

    def tell(self, *frames: Any) -> None:
        os.write(self.down, b"".join(json.dumps(frame).encode() + b"\n" for frame in frames))

    def read(self, size: Any = 1 << 20) -> Any:
        try:
            return os.read(self.up, size)
        except BlockingIOError:
            return b""

    def frames(self) -> Any:
        return list(self.splitter.feed(self.read()))

    async def until(self, wanted: Any) -> Any:
        """Frames up to the first that is wanted."""
        found = []
        async with asyncio.timeout(20):
            while not any(wanted(frame) for frame in found):
                readable = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().add_reader(self.up, lambda f=readable: f.done() or f.set_result(None))
                try:
                    await readable
                finally:
                    asyncio.get_running_loop().remove_reader(self.up)
                found += self.frames()
        return found

    def close(self) -> None:
        os.close(self.down)
        os.close(self.up)


RESUME = {"t": "resume", "v": 1, "epoch": 1, "last": 0}


@pytest.fixture
def supervisor(tmp_path: Any) -> Any:
    supervisor = Supervisor(tmp_path)
    yield supervisor
    supervisor.close()


@pytest.fixture
async def pipe(supervisor: Any, tmp_path: Any) -> Any:
    got: list[Any] = []
    pipe: Any = Pipe(str(tmp_path), got.append)
    pipe.got = got
    yield pipe
    pipe.close()


async def turns(count: Any = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_the_supervisor_wrote_before_is_answered_at_once(pipe: Any, supervisor: Any) -> None:
    supervisor.tell(RESUME, {"t": "stop", "grace": 1})
    pipe.post({"t": "ready"})
    pipe.open()
    assert supervisor.frames() == [{"t": "reset", "v": 1, "epoch": 1, "last": 0}, {"t": "ready", "n": 1}]
    assert pipe.got == [{"t": "stop", "grace": 1}]


async def test_a_burst_is_one_write(pipe: Any, supervisor: Any, monkeypatch: Any) -> None:
    pipe.open()
    supervisor.tell(RESUME)
    await supervisor.until(lambda frame: frame["t"] == "reset")
    writes, write = [], os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(len(data)) or write(fd, data))
    for number in range(FIRST_FRAMES):
        await pipe.send({"t": "event", "x": number})
    frames = await supervisor.until(lambda frame: frame.get("x") == FIRST_FRAMES - 1)
    assert [frame["n"] for frame in frames] == list(range(1, FIRST_FRAMES + 1))
    assert len(writes) == 1


async def test_a_full_window_makes_senders_wait_in_turn(supervisor: Any, tmp_path: Any) -> None:
    pipe = Pipe(str(tmp_path), lambda frame: None, Outbox(max_frames=FIRST_FRAMES))
    pipe.open()
    supervisor.tell(RESUME)
    for number in range(FIRST_FRAMES):
        await pipe.send({"t": "event", "x": number})
    waiting = [asyncio.create_task(pipe.send({"t": "event", "x": FIRST_FRAMES + i})) for i in range(3)]
    await supervisor.until(lambda frame: frame.get("n") == FIRST_FRAMES)
    await turns()
    assert not any(task.done() for task in waiting)
    assert pipe.post({"t": "beat"}) == FIRST_FRAMES + 1  # does not wait
    supervisor.tell({"t": "ack", "n": 2})  # one place is free again
    await supervisor.until(lambda frame: frame.get("n") == FIRST_FRAMES + 2)
    await turns()
    assert [task.done() for task in waiting] == [True, False, False]
    supervisor.tell({"t": "ack", "n": 10})
    async with asyncio.timeout(20):
        assert await asyncio.gather(*waiting) == [FIRST_FRAMES + 2, FIRST_FRAMES + 3, FIRST_FRAMES + 4]
    pipe.close()


async def test_a_turn_begins_with_a_small_window(pipe: Any, supervisor: Any) -> None:
    pipe.open()
    supervisor.tell(RESUME)
    sent = 0

    async def fill() -> int:
        """How many more frames there is room for."""
        nonlocal sent
        before = sent
        while True:
            sending = asyncio.create_task(pipe.send({"t": "event", "x": sent}))
            await turns()
            if not sending.done():
                sending.cancel()
                return sent - before
            sent += 1
            await supervisor.until(lambda frame, number=sent: frame.get("n") == number)

    assert await fill() == FIRST_FRAMES
    supervisor.tell({"t": "ack", "n": sent})
    await until_acked(pipe, sent)
    assert await fill() == 2 * FIRST_FRAMES
    supervisor.tell({"t": "ack", "n": sent})
    await until_acked(pipe, sent)
    supervisor.tell({"t": "turn", "turn": "t", "kind": "chat", "request": {}})
    await turns()
    assert await fill() == FIRST_FRAMES


async def until_acked(pipe: Any, number: int) -> None:
    async with asyncio.timeout(20):
        while pipe.acked < number:
            await asyncio.sleep(0)


async def test_a_resume_makes_room_as_well(supervisor: Any, tmp_path: Any) -> None:
    pipe = Pipe(str(tmp_path), lambda frame: None, Outbox(max_frames=1))
    pipe.open()
    supervisor.tell(RESUME)
    await pipe.send({"t": "event"})
    await supervisor.until(lambda frame: frame.get("n") == 1)
    waiting = asyncio.create_task(pipe.send({"t": "event"}))
    await turns()
    supervisor.tell({"t": "resume", "v": 1, "epoch": 2, "last": 1})
    async with asyncio.timeout(20):
        assert await waiting == 2
    pipe.close()


async def test_a_pipe_that_is_full_is_written_on_when_it_is_read(pipe: Any, supervisor: Any) -> None:
    pipe.open()
    supervisor.tell(RESUME)
    for _ in range(FIRST_FRAMES):
        await pipe.send({"t": "event", "x": "y" * 25_000})
    await turns()
    drained = asyncio.create_task(pipe.drain())
    await turns()
    assert not drained.done()
    frames = await supervisor.until(lambda frame: frame.get("n") == FIRST_FRAMES)
    assert [frame["n"] for frame in frames if frame["t"] == "event"] == list(range(1, FIRST_FRAMES + 1))
    async with asyncio.timeout(20):
        await drained


async def test_a_new_reader_finds_its_place_in_a_full_pipe(pipe: Any, supervisor: Any) -> None:
    pipe.open()
    supervisor.tell(RESUME)
    for _ in range(FIRST_FRAMES):
        await pipe.send({"t": "event", "x": "y" * 25_000})
    await turns()
    supervisor.read(60_000)  # and it dies
    supervisor.splitter = Splitter()
    supervisor.tell({"t": "resume", "v": 1, "epoch": 2, "last": 2})
    found = await supervisor.until(lambda frame: not isinstance(frame, Bad) and frame.get("n") == FIRST_FRAMES)
    frames = [frame for frame in found if not isinstance(frame, Bad)]
    reset = next(i for i, f in enumerate(frames) if f["t"] == "reset")
    assert [frame["n"] for frame in frames[reset + 1 :]] == list(range(3, FIRST_FRAMES + 1))


async def test_frames_that_cannot_be_are_refused_to_the_caller(pipe: Any) -> None:
    with pytest.raises(FrameError, match="at most 1048576"):
        await pipe.send({"t": "event", "x": "y" * 1_100_000})
    assert await pipe.send({"t": "event"}) == 1


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff\xfe\n",
        b'{"t":\n',
        b"[]\n",
        b'{"t":"ack"}\n',
        b'{"t":"ack","n":true}\n',
        b'{"t":"ack","n":-1}\n',
        b'{"t":"resume"}\n',
        b'{"t":"resume","v":3,"epoch":9,"last":0}\n',
        b'{"t":"resume","v":1,"epoch":"9","last":0}\n',
        b'{"t":"resume","v":1,"epoch":9,"last":-1}\n',
        b"x" * 60_000 + b"\n",
        b'{"t":"torn',
    ],
)
async def test_bad_lines_from_above_harm_nothing(pipe: Any, supervisor: Any, bad: Any) -> None:
    pipe.open()
    os.write(supervisor.down, bad)
    supervisor.tell({}, RESUME)  # a newline ends what is torn
    pipe.post({"t": "ready"})
    frames = await supervisor.until(lambda frame: frame["t"] == "ready")
    assert [frame.get("epoch") for frame in frames] == [1, None]
