"""What goes wrong inside the spawner: no request is lost, nothing is left of it, and the next one works."""

import os
import resource
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.processes.bundle import prepare_state
from supervisor.processes.spawner import connect
from tests.harness.boss import PATIENCE, Boss
from worker.spawn import MAX_MESSAGE, unpack
from worker.spawner.__main__ import KEPT_LOG_BYTES, MOST_LOG_BYTES, shorten

SLEEP = ["sleep", "1000"]
WITHOUT_RIGHTS = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges: an exec by root gives none back
assert libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
"""
LEVELS = pytest.mark.parametrize("level", ["auto", "sweep"])


def fds(pid: int) -> list[str]:
    return sorted(os.listdir(f"/proc/{pid}/fd"), key=int)


@contextmanager
def descriptors_left(pid: int, count: int) -> Iterator[None]:
    """Meanwhile a process can open this many more descriptors."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(fd) for fd in fds(pid)}
    free = [fd for fd in range(len(taken) + count + 1) if fd not in taken]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[count], before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def outcome(boss: Boss, channel: str) -> str:
    """How a spawn was answered."""
    assert boss.peer is not None
    while True:
        for event in boss.events:
            if event.get("id") == channel and event["ev"] in {"spawned", "spawn_failed"}:
                return str(event["ev"])
        boss.events.append(unpack(boss.peer.recv(MAX_MESSAGE)))


@pytest.mark.parametrize("command", [None, SLEEP])
@LEVELS
def test_without_descriptors_starts_fail_and_leave_nothing(boss: Boss, level: str, command: list[str] | None) -> None:
    boss.launch("--containment", level).connect()
    boss.spawn("warm", command)
    boss.event("spawned", id="warm")
    boss.kill("warm")
    boss.event("zygote", state="ready")
    pid = boss.hello["pid"]
    boss.settle()
    before = fds(pid)
    answers = []
    for left in range(12):
        channel = str(left)
        boss.settle()
        with descriptors_left(pid, left):
            boss.spawn(channel, command)
            answers.append(outcome(boss, channel))
        if answers[-1] == "spawned":
            boss.kill(channel)
    assert answers[0] == "spawn_failed"
    assert answers[-1] == "spawned"
    boss.hang_up()
    boss.connect()  # and it has forgotten what it was told to
    assert boss.hello["trees"] == 0
    deadline = time.monotonic() + PATIENCE  # what a zygote that was replaced had goes when its end is noticed
    while len(fds(pid)) > len(before) + 1:  # the spare may have one
        assert time.monotonic() < deadline, fds(pid)
        time.sleep(0.02)
    boss.end()


def test_a_lost_descriptor_is_told(boss: Boss) -> None:
    boss.launch().connect()
    with descriptors_left(boss.hello["pid"], 0):
        boss.spawn("1")
        assert "the spawner has no descriptor free" in boss.event("spawn_failed", id="1")["error"]
    boss.spawn("2")
    boss.ready("2")
    boss.kill("2")
    assert boss.end() == (0, "")


def test_connections_it_has_no_descriptor_for_do_not_keep_it_busy(boss: Boss) -> None:
    boss.launch().connect()
    boss.event("zygote", state="ready")
    pid = boss.hello["pid"]

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    with descriptors_left(pid, 0), connect(boss.state_dir) as other:
        before = ticks()
        other.settimeout(0.6)
        with pytest.raises(TimeoutError):
            other.recv(1)
        assert ticks() - before <= 15  # of 60
    with connect(boss.state_dir) as other:
        other.settimeout(20)
        assert b"busy" in other.recv(1000)
    assert boss.end() == (0, "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"environment": []},
        {"environment": 5},
        {"folder": None},
        {"limits": "many"},
        {"limits": {"memory_bytes": "much"}},
        {"command": 5},
        {"preload": 5},
        {"command": None},
    ],
)
def test_a_wrong_request_is_answered_as_a_failed_start(boss: Boss, wrong: dict[str, object]) -> None:
    boss.launch().connect()
    boss.send(**{"op": "spawn", "id": "1", "folder": "/nowhere", "environment": {}, "command": ["true"], **wrong})
    assert boss.event("spawn_failed", id="1")["error"]
    boss.spawn("2", ["true"])
    boss.gone("2")
    boss.hang_up()
    boss.connect()
    assert boss.hello["trees"] == 0
    assert boss.end()[0] == 0


@pytest.mark.parametrize("request_", [{"op": "kill"}, {"op": "stop", "term_after": 0, "kill_after": 0}])
def test_the_end_of_what_is_not_there_is_told(boss: Boss, request_: dict[str, object]) -> None:
    boss.launch().connect()
    boss.send(**request_, id="nobody")
    receipt = boss.gone("nobody")
    assert (receipt["processes"], receipt["killed"], receipt["left"]) == (0, 0, 0)
    assert boss.end() == (0, "")


def test_descriptors_nobody_asked_for_are_closed(boss: Boss) -> None:
    boss.launch().connect()
    boss.event("zygote", state="ready")
    boss.spawn("1", ["true"])
    boss.gone("1")
    before = fds(boss.hello["pid"])
    assert boss.peer is not None
    for _ in range(20):
        reader, writer = os.pipe()
        socket.send_fds(boss.peer, [b'{"op":"kill","id":"2"}'], [writer, writer])
        boss.gone("2")
        os.close(writer)
        assert os.read(reader, 1) == b""
        os.close(reader)
    assert len(fds(boss.hello["pid"])) - len(before) < 20  # a few are its own: it looks, and gets its next worker ready
    assert boss.end() == (0, "")


@pytest.mark.parametrize("obstacle", ["file", "closed folder", "link", "own folder"])
def test_the_temporary_folder_has_a_name_of_its_own(boss: Boss, tmp_path: Path, obstacle: str) -> None:
    prepare_state(boss.state_dir)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "kept").touch()
    place = boss.state_dir / "zygote-tmp"
    others = boss.state_dir / "tmp"
    others.mkdir()
    (others / "kept").touch()
    if obstacle == "file":
        place.write_text("kept")
    elif obstacle == "closed folder":
        place.mkdir()
        (place / "left").touch()
        place.chmod(0)
    elif obstacle == "link":
        place.symlink_to(theirs)
    boss.launch().connect()
    zygote = boss.event("zygote", state="ready")["pid"]
    # What it and its spares leave there when they are killed lies where the spawner removes it.
    assert f"\0TMPDIR={place}" in Path(f"/proc/{zygote}/environ").read_text()
    boss.spawn("1")
    boss.ready("1")
    boss.kill("1")
    boss.spawn("2", ["sh", "-c", "echo ${TMPDIR-none}"])
    assert boss.output("2")
    boss.gone("2")
    assert boss.end() == (0, "")
    assert (others / "kept").exists()
    assert (theirs / "kept").exists()
    assert not place.with_name("zygote-tmp-2").exists()
    assert place.is_symlink() if obstacle == "link" else place.is_file() == (obstacle == "file")


def test_its_memory_is_closed_to_others_of_its_user(
    boss: Boss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried without any capability, as a user other than root is: else whoever has more may look anyway."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{WITHOUT_RIGHTS}")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    boss.launch().connect()
    monkeypatch.undo()
    boss.spawn("1")
    found = {"spawner": boss.hello["pid"], "worker": boss.ready("1")}
    found["zygote"] = boss.event("zygote", state="ready")["pid"]
    looked = {}
    for name, pid in found.items():
        look = [str(program), "-c", f"print(len(open('/proc/{pid}/environ').read()))"]
        looked[name] = subprocess.run(look, capture_output=True, check=False, timeout=20).returncode == 0
    assert looked == {"spawner": False, "worker": True, "zygote": True}
    boss.spawn("2", SLEEP)
    boss.event("spawned", id="2")
    assert [boss.kill(channel)["killed"] for channel in "12"] == [1, 1]
    assert boss.end() == (0, "")


def test_a_log_keeps_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as file:
        file.write(b"line\n" * 10)
        shorten(file.fileno())
        assert path.stat().st_size == 50
        file.write(b"old\n" * MOST_LOG_BYTES)
        file.write(b"last\n")
        shorten(file.fileno())
        file.write(b"new\n")
    text = path.read_bytes()
    assert len(text) <= KEPT_LOG_BYTES + 4
    assert text.startswith(b"old\n")
    assert text.endswith(b"old\nlast\nnew\n")
    assert b"\0" not in text


def test_a_log_that_is_no_file_is_left_alone() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"x")
    shorten(writer)
    assert stat.S_ISFIFO(os.fstat(writer).st_mode)
    assert os.read(reader, 9) == b"x"
    os.close(reader)
    os.close(writer)
