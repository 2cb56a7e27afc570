"""Workers' output: whole lines, bounded files, readers that stop reading."""

import asyncio
import contextlib
import errno
import fcntl
import os
import random
import resource
import select
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Never

import pytest

from supervisor.processes.logs import BURST, LARGEST_PIPE, MOST_SAID, READ_SIZE, LogSink, LogWriter, Throttled, prune
from supervisor.processes.peek import Peek, take
from supervisor.processes.targets import FileTarget, StdoutTarget, Target

PATIENCE = 20


class Kept:
    """A target in memory."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = threading.Event()

    def take(self, pipe: int, lines: bytes) -> None:
        take(pipe, len(lines))
        self.data += lines if lines.endswith(b"\n") else lines + b"\n"

    def close(self) -> None:
        self.closed.set()


class Failing(Kept):
    """A target on a disk that is full."""

    def take(self, pipe: int, lines: bytes) -> None:
        take(pipe, len(lines))
        raise OSError(errno.ENOSPC, "No space left on device")


async def until(true: Callable[[], bool]) -> None:
    """Wait for it; the suite's own bound ends a wait that is in vain."""
    while not true():
        await asyncio.sleep(0.002)


@pytest.fixture
async def writer() -> AsyncIterator[LogWriter]:
    writer = LogWriter()
    writer.start()
    yield writer
    writer.close()


def given(target: Target, lines: bytes) -> bytes:
    """Let the target take the lines from a pipe that has more in it, without waiting; what is in it then."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.write(writer, lines + b"more")
        target.take(reader, lines)
        return os.read(reader, READ_SIZE)
    finally:
        os.close(reader)
        os.close(writer)


async def sunk(
    folder: Path, writer: LogWriter, *pieces: bytes, rate: int = 1 << 30, target: Kept | None = None
) -> bytes:
    """What comes out when a worker writes these pieces to its stdout and ends."""
    os.mkfifo(folder / "out")
    target = target or Kept()
    sink = LogSink(folder, ("out",), target, writer, rate)
    fd = os.open(folder / "out", os.O_WRONLY)

    def write() -> None:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        os.close(fd)

    await asyncio.to_thread(write)
    sink.close()
    sink.close()
    assert await asyncio.to_thread(target.closed.wait, PATIENCE)
    return target.data


async def test_lines_come_whole_and_the_last_one_is_ended(tmp_path: Path, writer: LogWriter) -> None:
    assert await sunk(tmp_path, writer, b"one\nt", b"wo\n", b"\xff\r\nthree") == b"one\ntwo\n\xff\r\nthree\n"


async def test_a_line_without_an_end_is_cut(tmp_path: Path, writer: LogWriter) -> None:
    data = await sunk(tmp_path, writer, b"x" * (5 * READ_SIZE) + b"\nnext\n")
    lines = data.splitlines()
    assert lines[-1] == b"next"
    assert b"".join(lines[:-1]) == b"x" * (5 * READ_SIZE)
    assert max(map(len, lines)) <= READ_SIZE


async def test_all_of_a_flood_comes_through(tmp_path: Path, writer: LogWriter) -> None:
    flood = b"".join(b"%07d\n" % n for n in range(1_000_000))
    assert await sunk(tmp_path, writer, flood) == flood


async def test_no_more_than_its_rate_is_read(tmp_path: Path, writer: LogWriter) -> None:
    began = time.monotonic()
    data = await sunk(
        tmp_path, writer, b"x" * 99 + b"\n", b"y" * 99_999 + b"\n", b"z" * 899_999 + b"\n", rate=2_000_000
    )
    assert len(data) >= 1_000_000
    assert time.monotonic() - began > 0.2  # at 2 MB a second


async def test_fifos_that_are_not_there_leave_nothing_open(tmp_path: Path, writer: LogWriter) -> None:
    os.mkfifo(tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        LogSink(tmp_path, ("out", "err"), Kept(), writer, 1)


async def test_of_a_pipe_somebody_writes_on_no_more_is_taken_than_it_can_hold(
    tmp_path: Path, writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "out")
    target = Kept()
    sink = LogSink(tmp_path, ("out",), target, writer, 1 << 30)
    fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_NONBLOCK)
    peek = writer.peek

    def write_on(pipe: int, most: int) -> bytes:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fd, b"x" * 999 + b"\n")
        return peek(pipe, most)

    monkeypatch.setattr(writer, "peek", write_on)
    sink.close()
    assert await asyncio.to_thread(target.closed.wait, PATIENCE)
    os.close(fd)
    monkeypatch.undo()
    assert LARGEST_PIPE <= len(target.data) <= LARGEST_PIPE + 2 * 64 * 1024


async def test_a_sink_does_not_follow_what_is_put_in_its_place(tmp_path: Path, writer: LogWriter) -> None:
    (tmp_path / "out").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="symbolic links"):
        LogSink(tmp_path, ("out",), Kept(), writer, 1)


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_what_is_planted_in_a_logs_place_is_neither_waited_for_nor_followed(tmp_path: Path, kind: str) -> None:
    path, victim = tmp_path / "app.log", tmp_path / "victim"
    victim.write_text("precious")
    os.mkfifo(path) if kind == "fifo" else path.symlink_to(victim)
    target = FileTarget(path, 100)
    with pytest.raises(OSError, match=r"No such device|symbolic links"):
        given(target, b"line\n")
    assert victim.read_text() == "precious"


def test_a_file_is_rotated_and_one_predecessor_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    target = FileTarget(path, 100)
    assert not path.exists()
    for number in range(30):
        assert given(target, b"line %04d\n" % number) == b"more"
    target.close()
    assert path.read_bytes() == b"".join(b"line %04d\n" % n for n in range(20, 30))
    assert (tmp_path / "app.log.1").read_bytes() == b"".join(b"line %04d\n" % n for n in range(10, 20))
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.glob("app*")) == ["app.log", "app.log.1"]
    again = FileTarget(path, 100)
    given(again, b"last")
    again.close()
    assert path.read_bytes().endswith(b"line 0029\nlast\n")


def test_a_file_that_somebody_emptied_goes_on_at_its_beginning(tmp_path: Path) -> None:
    target = FileTarget(tmp_path / "app.log", 1000)
    given(target, b"one\n")
    os.truncate(tmp_path / "app.log", 0)
    given(target, b"two\n")
    target.close()
    assert (tmp_path / "app.log").read_bytes() == b"two\n"


def test_what_cannot_be_written_is_lost_and_not_in_the_way(tmp_path: Path) -> None:
    target = FileTarget(tmp_path / "no folder" / "app.log", 100)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    os.write(writer, b"lost\nkept\n")
    with pytest.raises(FileNotFoundError):
        target.take(reader, b"lost\n")
    (tmp_path / "no folder").mkdir()
    target.take(reader, b"kept\n")
    target.close()
    os.close(reader)
    os.close(writer)
    assert (tmp_path / "no folder" / "app.log").read_bytes() == b"kept\n"


def test_a_line_that_a_full_disk_cut_is_ended_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    target = FileTarget(path, 1 << 20)
    given(target, b"first\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        os.write(writer, b"second\nthird\n")
        with pytest.raises(OSError, match="File too large"):
            target.take(reader, b"second\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        target.take(reader, b"third\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        target.close()
        os.close(reader)
        os.close(writer)
    assert path.read_bytes() == b"first\nseco\nthird\n"


async def test_a_disk_that_fails_does_not_stop_the_others(tmp_path: Path, writer: LogWriter) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    lost = asyncio.create_task(sunk(tmp_path / "a", writer, b"lost\n" * 100_000, target=Failing()))
    assert await sunk(tmp_path / "b", writer, b"kept\n") == b"kept\n"
    assert await lost == b""


async def test_a_line_that_comes_in_pieces_is_waited_for(tmp_path: Path, writer: LogWriter) -> None:
    os.mkfifo(tmp_path / "out")
    target = Kept()
    sink = LogSink(tmp_path, ("out",), target, writer, 1 << 30)
    fd = os.open(tmp_path / "out", os.O_WRONLY)
    os.write(fd, b"whole\nha")
    await until(lambda: target.data == b"whole\n")
    os.write(fd, b"lf\n")
    await until(lambda: target.data == b"whole\nhalf\n")
    os.write(fd, b"next\n")
    await until(lambda: target.data == b"whole\nhalf\nnext\n")
    sink.close()
    os.close(fd)
    assert await asyncio.to_thread(target.closed.wait, PATIENCE)


async def test_what_is_not_taken_is_left_to_a_successor(tmp_path: Path, writer: LogWriter) -> None:
    os.mkfifo(tmp_path / "out")
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_NONBLOCK)  # as the spawner holds it
    first, second = Kept(), Kept()
    sink = LogSink(tmp_path, ("out",), first, writer, 1 << 30)
    os.write(fd, b"one\nha")
    await until(lambda: first.data == b"one\n")
    sink.leave()
    sink.close()
    assert await asyncio.to_thread(first.closed.wait, PATIENCE)
    os.write(fd, b"lf\n")
    successor = LogSink(tmp_path, ("out",), second, writer, 1 << 30)
    await until(lambda: second.data == b"half\n")
    successor.close()
    assert await asyncio.to_thread(second.closed.wait, PATIENCE)
    os.close(fd)
    assert first.data == b"one\n"


def test_however_a_server_is_killed_each_line_is_in_the_file_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    held = os.open(tmp_path / "out", os.O_RDWR | os.O_NONBLOCK)
    lines = b"".join(b"%07d %s\n" % (n, b"x" * (n % 200)) for n in range(200_000))
    killed, left = 0, memoryview(lines)
    moments = random.Random(7)
    while left:
        server = os.fork()
        if not server:
            pour_for_ever(tmp_path)
        until = time.monotonic() + moments.uniform(0.002, 0.02)
        while left and time.monotonic() < until:
            if select.select([], [held], [], 0.01)[1]:
                left = left[os.write(held, left[:4096]) :]
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        killed += 1
    target, peek = FileTarget(tmp_path / "app.log", 1 << 30), Peek()
    while data := peek(held, READ_SIZE):
        target.take(held, data)
    for thing in (target, peek):
        thing.close()
    os.close(held)
    assert (tmp_path / "app.log").read_bytes() == lines
    assert killed >= 10


def pour_for_ever(folder: Path) -> Never:
    """A server, as far as its writing thread goes."""
    try:
        pipe = os.open(folder / "out", os.O_RDWR | os.O_NONBLOCK)
        target, peek = FileTarget(folder / "app.log", 1 << 30), Peek()
        while True:
            data = peek(pipe, READ_SIZE)
            if whole := data[: data.rfind(b"\n") + 1]:
                target.take(pipe, whole)
            else:
                select.select([pipe], [], [], 0.001)
    finally:
        os._exit(1)


def test_our_own_output_has_each_line_behind_its_channel() -> None:
    reader, out = os.pipe()
    try:
        target = StdoutTarget("a\nb\ud800\x1b[2J\x7f\x9b日", out)
        given(target, b"one\ntw\ro\n")
        target.close()
        prefix = b"[a\\nb\\ud800\\x1b[2J\\x7f\\x9b" + "日] ".encode()
        assert os.read(reader, 65536) == prefix + b"one\n" + prefix + b"tw\ro\n"
    finally:
        os.close(reader)
        os.close(out)


@pytest.mark.parametrize("length", [50, 9_000])
def test_lines_nobody_reads_are_dropped_counted_and_never_torn(length: int) -> None:
    reader, out = os.pipe()
    try:
        target = StdoutTarget("c", out)
        lines = [b"%06d" % n + b"x" * length + b"\n" for n in range(300_000 // length)]
        given(target, b"".join(lines))
        os.set_blocking(reader, False)
        got = os.read(reader, 1 << 20)
        given(target, b"after\n")
        got += os.read(reader, 1 << 20)
    finally:
        os.close(reader)
        os.close(out)
    shown = [line.removeprefix(b"[c] ") for line in got.splitlines(keepends=True)]
    notice = shown[-2]
    whole = [line for line in shown[:-2] if line in lines]
    assert shown[-1] == b"after\n"
    assert notice.endswith(b" lines dropped: nobody read them\n")
    assert len(whole) + int(notice.split()[0]) == len(lines)
    assert all(line.startswith(b"[c] ") for line in got.splitlines(keepends=True))
    assert len(shown) - 2 - len(whole) <= 1  # at most the line that was under way


@pytest.mark.parametrize(
    ("total", "days", "kept"),
    [
        (1000, 10, "abcd"),
        (250, 10, "ab"),
        (100, 10, "a"),
        (99, 10, ""),
        (1000, 2.5, "abc"),
        (1000, 0.5, "a"),
        (0, 0, ""),
    ],
)
def test_old_logs_go_first(tmp_path: Path, total: int, days: float, kept: str) -> None:
    now = 1_000_000_000.0
    for age, name in enumerate("abcd"):
        path = tmp_path / f"app-{name}.log{'.1' if name == 'b' else ''}"
        path.write_bytes(b"x" * 100)
        os.utime(path, (now - age * 86_400, now - age * 86_400))
    (tmp_path / "other.log").write_bytes(b"x" * 1000)
    removed = prune(tmp_path, total_bytes=total, keep_days=days, now=now + 1)
    assert "".join(sorted(path.name[4] for path in tmp_path.glob("app-*"))) == kept
    assert removed == 4 - len(kept)
    assert (tmp_path / "other.log").exists()


# ---------------------------------------------------------------------- what a worker makes us log


class Told:
    """A logger in memory, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.events: list[dict[str, Any]] = []
        self.throttled = Throttled(self, lambda: self.now)

    def warning(self, event: str, **fields: Any) -> None:
        self.events.append(fields)


def test_a_few_at_once_then_one_a_second() -> None:
    told = Told()
    for number in range(1000):
        told.throttled.warning("event", number=number)
    assert told.events == [{"number": number} for number in range(BURST)]
    told.now += 0.9
    told.throttled.warning("event", number="early")
    told.now += 0.2
    told.throttled.warning("event", number="in time")
    told.throttled.warning("event", number="again")
    assert told.events[BURST:] == [{"number": "in time", "suppressed": 1000 - BURST + 1}]
    told.now += 1000
    for number in range(1000):
        told.throttled.warning("event", number=number)
    assert told.events[BURST + 1 :] == [{"number": 0, "suppressed": 1}, *({"number": n} for n in range(1, BURST))]


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("short", "short"),
        (None, None),
        (3, 3),
        ([{"name": "a"}], [{"name": "a"}]),
        ("x" * 10_000, "x" * MOST_SAID + "..."),
        (["x" * 10_000], '["' + "x" * (MOST_SAID - 2) + "..."),
        (nested(500), "too deep to be shown"),
    ],
)
def test_what_it_says_is_cut(value: Any, shown: Any) -> None:
    told = Told()
    told.throttled.warning("event", value=value)
    assert told.events == [{"value": shown}]


async def test_a_worker_that_writes_packets_disturbs_nobody(tmp_path: Path, writer: LogWriter) -> None:
    """Each of its writes is then read by itself, and what is left of a look must not be taken for another's."""
    targets, sinks, pipes = [], [], []
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
        os.mkfifo(tmp_path / name / "out")
        targets.append(Kept())
        sinks.append(LogSink(tmp_path / name, ("out",), targets[-1], writer, 1 << 30))
        pipes.append(os.open(tmp_path / name / "out", os.O_WRONLY))
    fcntl.fcntl(pipes[0], fcntl.F_SETFL, os.O_DIRECT)

    def write() -> None:
        for number in range(200):
            for piece in (b"forged ", b"by ", b"the bad one %d\n" % number):
                os.write(pipes[0], piece)
            os.write(pipes[1], b"good %d\n" % number)

    await asyncio.to_thread(write)
    await until(lambda: targets[1].data.endswith(b"good 199\n") and targets[0].data.endswith(b"one 199\n"))
    for sink, pipe in zip(sinks, pipes, strict=True):
        sink.close()
        os.close(pipe)
        await sink.over(PATIENCE)
    assert targets[1].data == b"".join(b"good %d\n" % number for number in range(200))
    assert targets[0].data == b"".join(b"forged by the bad one %d\n" % number for number in range(200))


@pytest.mark.parametrize("size", [4096, 1 << 20])
async def test_a_line_that_cannot_be_seen_whole_is_cut(
    tmp_path: Path, writer: LogWriter, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Where a user has many pipes the one that is looked through is small; a worker can make its own larger."""
    if size == 4096:
        fcntl.fcntl(writer.peek._writer, fcntl.F_SETPIPE_SZ, size)
    os.mkfifo(tmp_path / "out")
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_NONBLOCK)
    if size > 4096:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
        for _ in range(20):
            os.write(fd, b"x" * 3000)  # a page each: the look does not get to its end
        os.write(fd, b"\nnext\n")
    else:
        os.write(fd, b"x" * 20_000 + b"\nnext\n")
    target = Kept()
    sink = LogSink(tmp_path, ("out",), target, writer, 1 << 30)
    await until(lambda: target.data.endswith(b"\nnext\n"))
    sink.close()
    os.close(fd)
    await sink.over(PATIENCE)
    assert target.data.replace(b"\n", b"").count(b"x") - 1 in (20_000, 60_000)  # and one in "next"


async def test_a_look_that_fails_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    reader, pipe = os.pipe2(os.O_NONBLOCK)
    other_reader, other = os.pipe2(os.O_NONBLOCK)
    peek = Peek()
    real = os.read
    os.write(pipe, b"stale\n")
    os.write(other, b"fresh\n")
    with pytest.MonkeyPatch.context() as patch:

        def fails(fd: int, size: int) -> bytes:
            raise OSError(errno.EIO, "it cannot be read")

        patch.setattr(os, "read", fails)
        with pytest.raises(OSError, match="cannot be read"):
            peek(reader, READ_SIZE)
    assert os.read is real
    assert peek(other_reader, READ_SIZE) == b"fresh\n"
    peek.close()
    for fd in (reader, pipe, other_reader, other):
        os.close(fd)


async def test_a_fault_in_one_job_does_not_end_the_logs(tmp_path: Path, writer: LogWriter) -> None:
    def fault() -> None:
        raise ValueError("ours")

    writer.call(fault)
    assert await sunk(tmp_path, writer, b"line\n") == b"line\n"


async def test_the_last_lines_are_written_before_a_folder_goes(tmp_path: Path, writer: LogWriter) -> None:
    os.mkfifo(tmp_path / "out")
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_NONBLOCK)
    busy = threading.Event()
    target = Kept()
    sink = LogSink(tmp_path, ("out",), target, writer, 1 << 30)
    writer.call(lambda: busy.wait(PATIENCE) and None)
    os.write(fd, b"Traceback\n")
    sink.close()
    waiting = asyncio.create_task(sink.over(PATIENCE))
    await asyncio.sleep(0)
    assert not waiting.done()
    busy.set()
    await waiting
    assert target.data == b"Traceback\n"
    os.close(fd)


async def test_a_disk_that_is_full_for_a_moment_costs_no_more_than_that(tmp_path: Path, writer: LogWriter) -> None:
    class Once(Kept):
        failed = False

        def take(self, pipe: int, lines: bytes) -> None:
            if not self.failed:
                self.failed = True
                take(pipe, len(lines))
                raise OSError(errno.ENOSPC, "No space left on device")
            super().take(pipe, lines)

    os.mkfifo(tmp_path / "out")
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 20)
    lines = b"".join(b"%06d\n" % number for number in range(30_000))
    target = Once()
    sink = LogSink(tmp_path, ("out",), target, writer, 1 << 30)
    sink._ask = lambda spout: None  # type: ignore[method-assign]
    os.write(fd, lines)
    sink.close()
    await sink.over(PATIENCE)
    os.close(fd)
    assert lines.endswith(target.data)
    assert len(target.data) >= len(lines) - 2 * READ_SIZE
