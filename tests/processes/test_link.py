"""The supervisor's end of the pipes, with real FIFOs."""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.processes.link import (
    ACK_FRAMES,
    FIRST_ACK_FRAMES,
    LARGEST_PIPE,
    OUTBOX_BYTES,
    RATE_BYTES,
    WINDOW_BYTES,
    Link,
    LinkFullError,
)
from supervisor.processes.rota import Rota
from worker.frames import MAX_FRAME, Bad, FrameError, Splitter, encode
from worker.outbox import FIRST_FRAMES, MAX_FRAMES

PATIENCE = 10


class Far:
    """The worker's end, by hand."""

    def __init__(self, folder: Path) -> None:
        self.frames: list[dict[str, Any]] = []
        self.bad: list[Bad] = []
        self._splitter = Splitter()
        self._taken = asyncio.Event()
        for name in ("up", "down"):
            os.mkfifo(folder / name, 0o600)
        self.link = Link(self._on_frame, self.bad.append, Rota())
        self.link.open(folder)
        self._up = os.open(folder / "up", os.O_RDWR | os.O_NONBLOCK)
        self._down = os.open(folder / "down", os.O_RDWR | os.O_NONBLOCK)

    def _on_frame(self, frame: dict[str, Any]) -> None:
        self.frames.append(frame)
        self._taken.set()

    def write(self, data: bytes) -> None:
        assert os.write(self._up, data) == len(data)

    def answer_resume(self) -> None:
        self.write(b"\n" + encode({"t": "reset", "v": 1, "epoch": 1, "last": 0}))

    async def takes(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.frames) < count:
                self._taken.clear()
                await self._taken.wait()

    async def heard(self, size: int = 65536) -> list[dict[str, Any]]:
        """What the link has written, waited for."""
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._down, readable.set)
        try:
            async with asyncio.timeout(PATIENCE):
                await readable.wait()
        finally:
            loop.remove_reader(self._down)
        return [frame for frame in self._splitter.feed(os.read(self._down, size)) if not isinstance(frame, Bad)]

    def close(self) -> None:
        self.link.close()
        os.close(self._up)
        os.close(self._down)


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[Far]:
    far = Far(tmp_path)
    yield far
    far.close()


async def test_it_asks_for_a_resume_first(far: Far) -> None:
    assert await far.heard() == [{"t": "resume", "v": 1, "most": 2, "epoch": 1, "last": 0}]


async def test_frames_are_handed_on_and_acknowledged_in_batches(far: Far) -> None:
    await far.heard()
    far.answer_resume()
    half = FIRST_ACK_FRAMES // 2
    far.write(b"".join(encode({"t": "event", "n": n}) for n in range(1, half + 1)))
    await far.takes(half)
    far.write(b"".join(encode({"t": "event", "n": n}) for n in range(half + 1, 2 * half + 1)))
    await far.takes(2 * half)
    assert await far.heard() == [{"t": "ack", "n": FIRST_ACK_FRAMES}]


async def test_a_turn_begins_with_frequent_acknowledgements(far: Far) -> None:
    """Each batch is larger than the one before, and less than what a worker may have unacknowledged by then."""
    await far.heard()
    far.answer_resume()
    sent, batch, window = 0, FIRST_ACK_FRAMES, FIRST_FRAMES
    for _ in range(ACK_FRAMES // FIRST_ACK_FRAMES + 2):
        assert batch < window
        for last in (sent + batch - 1, sent + batch):
            far.write(b"".join(encode({"t": "event", "n": n}) for n in range(sent + 1, last + 1)))
            sent = last
            await far.takes(sent)
        assert await far.heard() == [{"t": "ack", "n": sent}]
        batch, window = min(batch + FIRST_ACK_FRAMES, ACK_FRAMES), min(window + FIRST_FRAMES, MAX_FRAMES)
    far.write(encode({"t": "event", "n": sent + 1}))
    await far.takes(sent + 1)
    far.link.start_slowly()
    assert await far.heard() == [{"t": "ack", "n": sent + 1}], "the worker has its whole window for the turn"
    far.link.start_slowly()  # there is nothing to say
    last = sent + 1 + FIRST_ACK_FRAMES
    far.write(b"".join(encode({"t": "event", "n": n}) for n in range(sent + 2, last + 1)))
    assert await far.heard() == [{"t": "ack", "n": last}]


async def test_acknowledgements_for_a_beat_make_no_batch_larger(far: Far) -> None:
    """While somebody takes nothing the worker's window does not grow, so neither may what it waits for."""
    await far.heard()
    far.answer_resume()
    far.link.held = 1
    far.write(b"".join(encode({"t": "event", "n": n}) for n in range(1, 31)))
    await far.takes(30)
    number = 30
    for _ in range(20):
        number += 2
        far.write(encode({"t": "beat", "n": number - 1}) + encode({"t": "beat", "n": number}))
        await far.takes(number)
        assert await far.heard() == [{"t": "ack", "n": 0, "seen": number}]
    far.link.held = None
    far.link.taken()
    assert await far.heard() == [{"t": "ack", "n": number}]
    more = 2 * FIRST_ACK_FRAMES
    far.write(b"".join(encode({"t": "event", "n": number + n}) for n in range(1, more + 1)))
    assert await far.heard() == [{"t": "ack", "n": number + more}], "no later than the second batch"


async def test_every_other_beat_is_acknowledged_at_once_and_all_before_it(far: Far) -> None:
    await far.heard()
    far.answer_resume()
    far.write(encode({"t": "event", "n": 1}) + encode({"t": "beat", "n": 2}))
    assert await far.heard() == [{"t": "ack", "n": 2}]
    far.write(encode({"t": "event", "n": 2}) + encode({"t": "beat", "n": 3}))  # alone it waits for the next
    await far.takes(3)
    far.write(encode({"t": "beat", "n": 4}))
    assert await far.heard() == [{"t": "ack", "n": 4}]
    assert [frame["n"] for frame in far.frames] == [1, 2, 3, 4]


async def test_bad_lines_are_told(far: Far) -> None:
    far.answer_resume()
    far.write(b"\xff\n[]\n" + encode({"t": "event", "n": 1}))
    await far.takes(1)
    assert [bad.size for bad in far.bad] == [2, 3]


async def test_a_worker_that_does_not_read_meets_a_bound_and_gets_all_when_it_does(far: Far) -> None:
    line = {"t": "command", "payload": "x" * 100_000}
    sent = 0
    with pytest.raises(LinkFullError, match=f"at most {OUTBOX_BYTES} may"):
        while True:
            far.link.send({**line, "id": sent})
            sent += 1
    assert sent * len(encode(line)) + 200_000 >= OUTBOX_BYTES
    got: list[int] = []
    while len(got) < sent:
        got += [frame["id"] for frame in await far.heard() if frame["t"] == "command"]
    assert got == list(range(sent))
    far.link.send({"t": "stop", "grace": 1})
    assert [frame["t"] for frame in await far.heard()] == ["stop"]


async def test_acknowledgements_wait_for_a_worker_that_does_not_read(far: Far) -> None:
    while True:
        try:
            far.link.send({"t": "command", "payload": "x" * 100_000})
        except LinkFullError:
            break
    far.answer_resume()
    far.write(encode({"t": "beat", "n": 1}))
    await far.takes(1)
    frames: list[dict[str, Any]] = []
    while {"t": "ack", "n": 1} not in frames:
        frames += await far.heard()


async def test_what_is_no_frame_is_refused(far: Far) -> None:
    with pytest.raises(FrameError, match="at most"):
        far.link.send({"t": "command", "payload": "x" * MAX_FRAME})
    with pytest.raises(FrameError, match="JSON"):
        far.link.send({"t": "command", "payload": "\ud800"})


async def test_last_words_are_taken_and_a_closed_link_is_closed(far: Far) -> None:
    far.answer_resume()
    far.write(b"".join(encode({"t": "event", "n": n, "text": "y" * 50}) for n in range(1, 501)))
    far.link.drain()
    assert len(far.frames) == 500
    far.link.close()
    far.link.close()
    far.link.drain()
    with pytest.raises(OSError, match="Bad file descriptor"):
        far.link.send({"t": "stop"})


async def test_of_a_pipe_somebody_writes_on_no_more_is_taken_than_it_can_hold(far: Far) -> None:
    far.answer_resume()

    def write_on(frame: dict[str, Any]) -> None:
        far.frames.append(frame)
        far.write(encode({"t": "state", "n": frame["n"] + 1, "text": "y" * 10_000}))

    far.link._on_frame = write_on  # type: ignore[assignment]
    far.write(encode({"t": "state", "n": 1}))
    far.link.drain()  # each frame that is taken is followed by another one
    assert LARGEST_PIPE <= len(far.frames) * 10_000 <= LARGEST_PIPE + 64 * 1024


async def flooded(folder: Path, pieces: Iterator[bytes]) -> tuple[int, float]:
    """What a link takes of a flood, until all of it is written: how many bytes, in how many seconds."""
    for name in ("up", "down"):
        os.mkfifo(folder / name, 0o600)
    link = Link(lambda _: None, lambda _: None, Rota())
    link.open(folder)
    fd = os.open(folder / "up", os.O_WRONLY)

    def write() -> int:
        size = 0
        for piece in pieces:
            view = memoryview(piece)
            size += len(view)
            while view:
                view = view[os.write(fd, view) :]
        return size

    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            size = await asyncio.to_thread(write)
    finally:
        os.close(fd)
        link.close()
    return size, time.monotonic() - began


RESET = b'\n{"t":"reset","v":1,"epoch":1,"last":0}\n'


async def test_a_flood_is_read_no_faster_than_its_rate(tmp_path: Path) -> None:
    frames = (b'{"t":"state","n":%d,"text":"%s"}\n' % (number, b"x" * 100_000) for number in range(1, 200))
    size, seconds = await flooded(tmp_path, itertools.chain([RESET], frames))
    assert size > 8 * WINDOW_BYTES
    assert seconds > 0.8 * (size - WINDOW_BYTES) / RATE_BYTES - 0.1


async def test_many_short_lines_cost_as_much_as_few_long_ones(tmp_path: Path) -> None:
    """Also those that are skipped."""
    pieces = [b'{"t":"reset"}\n' * 1000] * 50
    size, seconds = await flooded(tmp_path, iter(pieces))
    assert size < WINDOW_BYTES
    assert seconds > 0.4


async def test_a_burst_is_taken_at_once(far: Far) -> None:
    """What a worker says in turns does not come near the bound: no pause in it."""
    far.answer_resume()
    number = 0
    for _ in range(20):
        frames = [encode({"t": "state", "n": (number := number + 1), "text": "y" * 1000}) for _ in range(50)]
        far.write(b"".join(frames))
        await far.takes(number)
        assert far.link._pause is None


async def test_a_link_in_a_pause_can_be_drained_and_closed(far: Far) -> None:
    far.answer_resume()
    far.link._window_end = time.monotonic() + PATIENCE
    far.link._window_left = 1
    far.write(encode({"t": "state", "n": 1}))
    await far.takes(1)
    assert far.link._pause is not None
    far.write(encode({"t": "state", "n": 2}))
    far.link.drain()
    assert len(far.frames) == 2


async def test_a_link_does_not_follow_what_is_put_in_its_place(tmp_path: Path) -> None:
    for name in ("elsewhere", "down"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "up").symlink_to("elsewhere")
    link = Link(lambda _: None, lambda _: None, Rota())
    with pytest.raises(OSError, match="symbolic links"):
        link.open(tmp_path)
    link.close()


async def test_a_handler_may_close_the_link(far: Far) -> None:
    far.answer_resume()
    far.link._on_frame = lambda frame: (far.frames.append(frame), far.link.close())  # type: ignore[assignment]
    far.write(encode({"t": "beat", "n": 1}) + encode({"t": "beat", "n": 2}))
    far.link.drain()
    assert len(far.frames) == 1


async def test_a_link_without_fifos_is_an_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    link = Link(lambda _: None, lambda _: None, Rota())
    os.mkfifo(tmp_path / "up")
    with pytest.raises(FileNotFoundError):
        link.open(tmp_path)
    link.close()


async def test_what_is_held_is_not_acknowledged_but_told_as_seen(far: Far) -> None:
    await far.heard()
    far.answer_resume()
    far.link.held = 2
    far.write(b"".join(encode({"t": "event", "n": n}) for n in range(1, 4)) + encode({"t": "beat", "n": 4}))
    assert await far.heard() == [{"t": "ack", "n": 1, "seen": 4}]
    far.write(encode({"t": "event", "n": 5}) + encode({"t": "beat", "n": 6}))
    assert await far.heard() == [{"t": "ack", "n": 1, "seen": 6}]
    far.link.held = None
    far.write(encode({"t": "event", "n": 7}) + encode({"t": "beat", "n": 8}))
    assert await far.heard() == [{"t": "ack", "n": 8}]


async def test_what_was_held_is_acknowledged_in_batches_when_it_is_taken(far: Far) -> None:
    await far.heard()
    far.answer_resume()
    far.link.held = 1
    far.write(b"".join(encode({"t": "event", "n": n}) for n in range(1, FIRST_ACK_FRAMES + 1)))
    await far.takes(FIRST_ACK_FRAMES)
    far.link.held = FIRST_ACK_FRAMES
    far.link.taken()  # one less than a batch
    far.link.held = None
    far.link.taken()
    assert await far.heard() == [{"t": "ack", "n": FIRST_ACK_FRAMES}]


async def test_a_link_that_is_paused_reads_nothing_until_it_goes_on(far: Far) -> None:
    far.answer_resume()
    far.write(encode({"t": "event", "n": 1}))
    await far.takes(1)
    far.link.pause()
    far.link.pause()
    far.write(encode({"t": "event", "n": 2}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(far.frames) == 1
    far.link.go_on()
    await far.takes(2)


async def test_a_pause_for_the_rate_does_not_end_one_for_a_reader(far: Far) -> None:
    far.answer_resume()
    far.link.pause()
    far.link._resume()
    far.write(encode({"t": "event", "n": 1}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert far.frames == []
    far.link.go_on()
    await far.takes(1)


async def test_frames_that_somebody_takes_do_not_count_against_the_rate(far: Far) -> None:
    far.answer_resume()
    far.link.held = 1
    lines = b"".join(encode({"t": "event", "n": n}) for n in range(1, 1001))
    far.write(lines)
    await far.takes(1000)
    assert far.link._window_left > WINDOW_BYTES - 2 * len(lines)


async def test_what_a_late_reader_took_is_acknowledged_at_once(far: Far) -> None:
    """A worker with a full window must not wait for its next beat."""
    await far.heard()
    far.answer_resume()
    far.link.held = 2
    far.write(b"".join(encode({"t": "event", "n": n}) for n in range(1, 4)) + encode({"t": "beat", "n": 4}))
    assert await far.heard() == [{"t": "ack", "n": 1, "seen": 4}]
    far.link.held = None
    far.link.taken()
    assert await far.heard() == [{"t": "ack", "n": 4}]
