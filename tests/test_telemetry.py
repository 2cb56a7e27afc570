"""The server's own log: lines that never wait and never fail, and steer no terminal."""

import atexit
import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from supervisor.sinks import Descriptor
from supervisor.telemetry import LineWriter, configure, printable

PATIENCE = 20


@contextmanager
def configured(log_format: str, monkeypatch: pytest.MonkeyPatch, level: str = "info") -> Iterator[Callable[[], str]]:
    """The log goes to a pipe; what was written so far, when asked. Nothing follows after that."""
    reader, out = os.pipe()
    with os.fdopen(out, "w") as stderr, os.fdopen(reader) as shown:
        monkeypatch.setattr(sys, "stderr", stderr)
        root = logging.getLogger()
        before = root.handlers[:], root.level
        writer = configure(level, log_format)

        def written() -> str:
            writer.close()
            stderr.close()
            return shown.read()

        try:
            yield written
        finally:
            writer.close()
            atexit.unregister(writer.close)
            structlog.reset_defaults()
            root.handlers, root.level = before


class Failing:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


ODD = {
    "bytes": b"\xff",
    "surrogate": "a\ud800b",
    "nested surrogate": ["a\ud800b"],
    "integer": 2**70,
    "object": Failing(),
    "exception": ValueError("x"),
    "keys": {1: 2, (3, 4): 5},
    "depth": deep(2000),
    "long": "x" * 100_000,
    "not a number": float("nan"),
}


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("name", ODD)
def test_a_log_call_never_fails(name: str, log_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with configured(log_format, monkeypatch) as written:
        structlog.get_logger("x").warning("odd", value=ODD[name], other="seen")
        text = written()
    assert text.count("odd") == 1
    assert "seen" in text
    if log_format == "json":
        event = json.loads(text)
        assert (event["event"], event["level"], event["other"]) == ("odd", "warning", "seen")


def fail(secret: str) -> None:
    raise ValueError(f"mis\x1b[2Jtaken {len(secret)}")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_shown_without_the_values_of_variables(
    log_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with configured(log_format, monkeypatch) as written:
        try:
            fail("sk-" + "planted")
        except ValueError:
            structlog.get_logger("x").exception("failed")
        text = written()
    assert "ValueError: mis" in text
    assert "sk-planted" not in text
    assert "\x1b[2J" not in text


CONTROL = [chr(n) for n in (*range(0x20), *range(0x7F, 0xA0))]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_value_steers_the_terminal(log_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with configured(log_format, monkeypatch) as written:
        structlog.get_logger("x").warning("said", text="".join(CONTROL), words=["\x1b[2J"], name="日本é")
        text = written()
    assert "日本é" in text
    assert text.count("\n") == 1
    assert all(character not in text for character in CONTROL[:0x20] if character != "\n")
    if log_format == "console":
        assert all(character not in text for character in CONTROL[0x20:])


def test_printable() -> None:
    assert printable("a\n\t\x1b\x7f\x9b\ud800\u202f日") == "a\\n\\t\\x1b\\x7f\\x9b\\ud800\u202f日"


def test_the_standard_library_s_records_are_events_and_never_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    with configured("json", monkeypatch) as written:
        log = logging.getLogger("some.library")
        log.warning("%d of %s", 1, "x")
        log.warning("%d", "no number")
        log.warning("%s", Failing())
        log.log(35, "between levels")
        log.info("too little")
        events = [json.loads(line) for line in written().splitlines()]
    assert [event["event"] for event in events] == ["library.log"] * 4
    assert [event["level"] for event in events] == ["warning"] * 4
    assert events[0]["message"] == "1 of x"
    assert "no number" in events[1]["message"]
    assert events[2]["message"].startswith("'%s' ")


# ---------------------------------------------------------------------- readers that stop, and that go


class Pipe:
    """A writer on a pipe, and its reader."""

    def __init__(self, most: int) -> None:
        self.reader, self.out = os.pipe()
        self.writer = LineWriter(Descriptor(self.out), lambda count: f"{count} dropped", most)
        self.writer.start()

    def read(self, until: bytes) -> list[str]:
        data = b""
        while not data.endswith(until):
            data += os.read(self.reader, 1 << 20)
        return data.decode().splitlines()

    def fill(self) -> None:
        """Leave no room in the pipe."""
        os.set_blocking(self.out, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(self.out, b"x" * 4095 + b"\n")
        os.set_blocking(self.out, True)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe(1000)
    yield pipe
    os.close(pipe.reader)
    pipe.writer.close()
    os.close(pipe.out)


def test_lines_nobody_reads_are_dropped_counted_and_the_rest_comes_in_order(pipe: Pipe) -> None:
    pipe.fill()
    for number in range(1000):
        pipe.writer.write(f"line {number:04}")  # returns at once: else the test would hang here
    lines = [line for line in pipe.read(b" dropped\n") if not line.startswith("xxx")]
    assert lines.pop() == f"{1000 - len(lines)} dropped"
    assert lines == [f"line {number:04}" for number in range(len(lines))]
    assert 1000 // len("line 0000\n") <= len(lines) <= 2 * 1000 // len("line 0000\n")
    pipe.writer.write("after")
    assert pipe.read(b"after\n") == ["after"]


def test_closing_writes_what_waits(pipe: Pipe) -> None:
    for number in range(50):
        pipe.writer.write(str(number))
    pipe.writer.close()
    assert pipe.read(b"49\n") == [str(number) for number in range(50)]
    pipe.writer.write("too late")


def test_closing_is_bounded_when_nobody_reads(pipe: Pipe) -> None:
    pipe.fill()
    pipe.writer.write("kept back")
    pipe.writer.close()  # returns: the test's timeout is the bound
    assert pipe.writer._thread.is_alive()
    assert [line for line in pipe.read(b"kept back\n") if not line.startswith("xxx")] == ["kept back"]
    pipe.writer._thread.join(PATIENCE)


def test_a_pipe_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    pipe.fill()
    os.set_blocking(pipe.out, False)
    pipe.writer.write("patient")
    assert pipe.read(b"patient\n")[-1] == "patient"


def test_a_reader_that_is_gone_is_nobody_s_failure() -> None:
    reader, out = os.pipe()
    os.close(reader)
    writer = LineWriter(Descriptor(out), str)
    writer.start()
    for _ in range(10):
        writer.write("to nobody")
    writer.close()
    writer.write("to nobody")
    os.close(out)
    assert not writer._thread.is_alive()


def test_what_a_failing_write_lost_is_told_when_writing_succeeds_again(tmp_path: Any) -> None:
    fd = os.open(tmp_path / "log", os.O_RDONLY | os.O_CREAT)
    told = threading.Event()

    def notice(count: int) -> str:
        told.set()
        return f"{count} dropped"

    writer = LineWriter(Descriptor(fd), notice)
    writer.start()
    writer.write("lost")
    while not told.is_set():
        writer.write("lost")
        told.wait(0.01)
    good = os.open(tmp_path / "log", os.O_WRONLY)
    os.dup2(good, fd)
    writer.write("kept")
    writer.close()
    os.close(good)
    os.close(fd)
    assert (tmp_path / "log").read_text().endswith("kept\n")
    assert " dropped\n" in (tmp_path / "log").read_text()


def test_a_log_call_within_a_log_call_is_no_deadlock(pipe: Pipe) -> None:
    """As from a finalizer, which runs whenever it likes."""
    with pipe.writer._changed:
        pipe.writer.write("inner")
    assert pipe.read(b"inner\n") == ["inner"]


SCRIPT = """
import sys
from supervisor.telemetry import configure
import structlog
configure("info", "json")
log = structlog.get_logger("x")
for number in range(int(sys.argv[1])):
    log.info("line", number=number)
print("done", flush=True)
"""


def run(count: int, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(count)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False, **options)


def test_the_last_lines_of_a_process_are_written() -> None:
    done = run(500, stderr=subprocess.PIPE)
    assert [json.loads(line)["number"] for line in done.stderr.splitlines()] == list(range(500))
    assert (done.returncode, done.stdout) == (0, "done\n")


@pytest.mark.parametrize("stderr", ["gone", "stopped", "closed", "full"])
def test_a_process_with_a_bad_stderr_does_its_work(stderr: str) -> None:
    reader, out = os.pipe()
    if stderr == "gone":
        os.close(reader)
    if stderr == "stopped":
        fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, 4096)
    if stderr == "closed":
        done = run(2000, preexec_fn=lambda: os.close(2))
    elif stderr == "full":
        with open("/dev/full", "wb") as full:
            done = run(2000, stderr=full)
    else:
        done = run(20_000, stderr=out)
    os.close(out)
    if stderr != "gone":
        os.close(reader)
    assert (done.returncode, done.stdout) == (0, "done\n")
