"""Workers' output: whole lines, bounded files, readers that stop reading."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.processes.logs import (
    BURST,
    LARGEST_PIPE,
    MAX_LINE,
    MOST_SAID,
    FileTarget,
    LogSink,
    LogWriter,
    StdoutTarget,
    Throttled,
    prune,
)

PATIENCE = 20


class Kept:
    """A target in memory."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = threading.Event()

    def write(self, lines: bytes) -> None:
        self.data += lines

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
async def writer() -> AsyncIterator[LogWriter]:
    writer = LogWriter()
    writer.start()
    yield writer
    writer.close()


async def sunk(folder: Path, writer: LogWriter, *pieces: bytes, rate: int = 1 << 30) -> bytes:
    """What comes out when a worker writes these pieces to its stdout and ends."""
    os.mkfifo(folder / "out")
    target = Kept()
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
    data = await sunk(tmp_path, writer, b"x" * (5 * MAX_LINE) + b"\nnext\n")
    lines = data.splitlines()
    assert lines[-1] == b"next"
    assert b"".join(lines[:-1]) == b"x" * (5 * MAX_LINE)
    assert max(map(len, lines)) <= 2 * MAX_LINE


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
    tmp_path: Path, writer: LogWriter
) -> None:
    os.mkfifo(tmp_path / "out")
    target = Kept()
    sink = LogSink(tmp_path, ("out",), target, writer, 1 << 30)
    fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_NONBLOCK)
    take = sink._take

    def write_on(number: int) -> int:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fd, b"x" * 999 + b"\n")
        return take(number)

    sink._take = write_on  # type: ignore[method-assign]
    sink.close()
    os.close(fd)
    assert await asyncio.to_thread(target.closed.wait, PATIENCE)
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
        target.write(b"line\n")
    assert victim.read_text() == "precious"


def test_a_file_is_rotated_and_one_predecessor_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    target = FileTarget(path, 100)
    assert not path.exists()
    for number in range(30):
        target.write(b"line %04d\n" % number)
    target.close()
    assert path.read_bytes() == b"".join(b"line %04d\n" % n for n in range(20, 30))
    assert (tmp_path / "app.log.1").read_bytes() == b"".join(b"line %04d\n" % n for n in range(10, 20))
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.glob("app*")) == ["app.log", "app.log.1"]
    again = FileTarget(path, 100)
    again.write(b"more\n")
    again.close()
    assert path.read_bytes().endswith(b"line 0029\nmore\n")


async def test_a_disk_that_fails_is_told_and_does_not_stop_the_others(tmp_path: Path, writer: LogWriter) -> None:
    lost, kept = FileTarget(tmp_path / "no folder" / "app.log", 100), Kept()
    done: list[int] = []
    writer.put(lost, b"lost\n", done.append)
    writer.put(kept, b"kept\n", done.append)
    writer.call(kept.close)
    assert await asyncio.to_thread(kept.closed.wait, PATIENCE)
    assert (kept.data, done) == (b"kept\n", [5, 5])


def test_our_own_output_has_each_line_behind_its_channel() -> None:
    reader, out = os.pipe()
    try:
        target = StdoutTarget("a\nb\ud800\x1b[2J\x7f\x9b日", out)
        target.write(b"one\ntw\ro\n")
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
        target.write(b"".join(lines))
        os.set_blocking(reader, False)
        got = os.read(reader, 1 << 20)
        target.write(b"after\n")
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
