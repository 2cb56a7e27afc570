"""The spawner's socket: requests, events, endings that are kept, its own end."""

import os
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

from supervisor.processes.launch import connect
from tests.harness.boss import PATIENCE, Boss
from worker.spawn import Limits, unpack

SLEEP = ["sleep", "1000"]
DEEP = b"[" * 100_000
LEVELS = pytest.mark.parametrize("level", ["auto", "sweep"])


@LEVELS
def test_hello_says_what_there_is(boss: Boss, level: str) -> None:
    boss.launch("--containment", level).connect()
    assert boss.process is not None
    assert boss.hello["pid"] == boss.process.pid
    assert boss.hello["containment"] in ({"sweep"} if level == "sweep" else {"sweep", "tracking", "full"})
    assert (boss.hello["version"], boss.hello["trees"], boss.hello["swept"]) == (1, 0, 0)
    boss.event("zygote", state="ready")
    assert boss.end() == (0, "")
    assert not (boss.state_dir / "spawn.sock").exists()


@LEVELS
def test_a_foreign_worker_from_spawn_to_receipt(boss: Boss, level: str) -> None:
    boss.launch("--containment", level).connect()
    boss.spawn("1", SLEEP)
    pid = boss.event("spawned", id="1")["pid"]
    assert os.getsid(pid) == pid
    boss.send(op="stop", id="1", term_after=0.0, kill_after=PATIENCE)
    assert boss.event("exit", id="1") == {"ev": "exit", "id": "1", "pid": pid, "status": -15, "oom": False}
    receipt = boss.gone("1")
    assert (receipt["processes"], receipt["killed"], receipt["left"], receipt["status"]) == (1, 0, 0, -15)
    boss.spawn("2", ["true"])
    assert boss.event("exit", id="2")["status"] == 0
    assert boss.gone("2")["status"] == 0
    boss.spawn("3", SLEEP)
    boss.event("spawned", id="3")
    assert boss.kill("3")["killed"] == 1
    assert boss.end() == (0, "")


INTRUDER = """
import os, socket, sys
peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.chdir("../..")
for _ in range(int(sys.argv[1])):
    if os.fork():
        os._exit(0)  # an orphan knocks
    os.setsid()
peer.connect("spawn.sock")
try:
    peer.send(b"{}")
    print("answered" if peer.recv(1000) else "closed", flush=True)
except ConnectionError:
    print("closed", flush=True)
"""


@pytest.mark.parametrize("forks", ["0", "2"])
def test_a_worker_is_no_control_server(boss: Boss, forks: str) -> None:
    """Else it could start others that are not confined, while there is none."""
    boss.launch().connect()
    boss.spawn("1", ["sh", "-c", f"mkfifo go; read go < go; {sys.executable} -c '{INTRUDER}' {forks}; sleep 1000"])
    boss.event("spawned", id="1")
    boss.hang_up()
    until = time.monotonic() + PATIENCE
    while not (boss.folder("1") / "go").exists():
        assert time.monotonic() < until
        time.sleep(0.001)
    with (boss.folder("1") / "go").open("w") as go:
        go.write("\n")
    assert boss.output("1") == b"closed\n"
    boss.connect()
    assert boss.event("live", id="1")
    boss.kill("1")
    assert boss.end() == (0, "")


@LEVELS
def test_a_worker_of_ours_from_spawn_to_receipt(boss: Boss, level: str) -> None:
    boss.launch("--containment", level).connect()
    boss.spawn("1")
    pid = boss.ready("1")
    assert os.getsid(pid) == pid
    boss.send(op="stop", id="1", term_after=0.0, kill_after=PATIENCE)
    assert boss.event("exit", id="1")["status"] == 0
    assert boss.gone("1")["killed"] == 0
    assert boss.end() == (0, "")


@pytest.mark.parametrize(
    ("command", "cwd", "said"),
    [
        (["no-such-program"], None, "command 'no-such-program': No such file or directory"),
        (["/"], None, "command '/': Permission denied"),
        (["true"], "/no/such/folder", "folder '/no/such/folder': No such file or directory"),
    ],
)
@LEVELS
def test_a_command_that_cannot_be_run_is_told(boss: Boss, level: str, command: list[str], cwd: str, said: str) -> None:
    boss.launch("--containment", level).connect()
    boss.spawn("1", command, cwd=cwd)
    assert boss.event("spawn_failed", id="1")["error"] == said
    boss.spawn("2", ["true"])
    assert boss.gone("2")["status"] == 0
    assert boss.end() == (0, "")


def test_what_is_no_request_is_refused_and_nothing_else_happens(boss: Boss) -> None:
    boss.launch().connect()
    assert boss.peer is not None
    for data in (b"{", b"[]", b"{}", b'{"op":"dance"}', b'{"op":"spawn"}', b'{"op":"stop","id":"1"}', b"\xff", DEEP):
        boss.events.clear()
        boss.peer.send(data)
        boss.event("refused")
    boss.send(op="forget", id="nobody")
    boss.send(op="spawn", id="1", folder="/nowhere", environment={})
    assert "no configuration" in boss.event("spawn_failed", id="1")["error"]
    boss.spawn("2", SLEEP)
    boss.event("spawned", id="2")
    boss.events.clear()
    boss.send(op="spawn", id="2", folder="/nowhere", environment={}, command=["true"])
    assert "in use" in boss.event("refused")["error"]
    assert boss.kill("2")["killed"] == 1
    assert boss.end() == (0, "")


def test_a_second_control_server_is_told_to_go(boss: Boss) -> None:
    boss.launch().connect()
    with connect(boss.state_dir) as other:
        other.settimeout(PATIENCE)
        assert unpack(other.recv(1000)) == {"ev": "busy"}
        assert other.recv(1000) == b""
    boss.spawn("1", ["true"])
    boss.gone("1")


def test_a_second_spawner_is_refused(boss: Boss) -> None:
    boss.launch()
    done = subprocess.run(
        [sys.executable, "-m", "worker.spawner", "--state-dir", str(boss.state_dir)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr.strip()) == (75, f"another spawner holds {boss.state_dir}")
    boss.connect()


@LEVELS
def test_endings_are_kept_until_somebody_took_note(boss: Boss, level: str) -> None:
    boss.launch("--containment", level).connect()
    boss.spawn("live", SLEEP)
    boss.spawn("ended", ["sh", "-c", "read line < ../../go; exit 7"])
    os.mkfifo(boss.state_dir / "go")
    pid = boss.event("spawned", id="live")["pid"]
    ended = boss.event("spawned", id="ended")["pid"]
    pidfd = os.pidfd_open(ended)
    boss.hang_up()
    with (boss.state_dir / "go").open("w") as go:
        go.write("\n")
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)
    for _ in range(2):  # a control server that does not take note is told again
        boss.connect()
        assert boss.hello["trees"] == 2
        assert boss.event("live", id="live")["pid"] == pid
        assert boss.event("gone", id="ended")["receipt"]["status"] == 7
        boss.hang_up()
    boss.connect()
    boss.gone("ended")
    boss.kill("live")
    boss.hang_up()
    boss.connect()
    assert boss.hello["trees"] == 0
    assert boss.end() == (0, "")


@LEVELS
def test_without_a_control_server_it_ends_everything_after_the_grace(boss: Boss, level: str) -> None:
    boss.launch("--containment", level).connect(orphan_grace=0.05)
    boss.spawn("1", ["sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000"])
    boss.spawn("2")
    boss.event("spawned", id="1")
    boss.ready("2")
    assert boss.peer is not None
    boss.peer.shutdown(socket.SHUT_RDWR)
    assert boss.wait() == (0, "")


def test_its_signals_end_it_in_order(boss: Boss) -> None:
    boss.launch().connect()
    boss.spawn("1", SLEEP)
    boss.event("spawned", id="1")
    assert boss.process is not None
    boss.process.send_signal(signal.SIGTERM)
    boss.event("gone", id="1")
    boss.event("bye")
    assert boss.wait() == (0, "")


@pytest.mark.parametrize("command", [None, ["sleep", "1000"]])
def test_many_at_once(boss: Boss, command: list[str] | None) -> None:
    boss.launch().connect()
    for number in range(20):
        boss.spawn(str(number), command)
    pids = {boss.event("spawned", id=str(number))["pid"] for number in range(20)}
    assert len(pids) == 20
    for number in range(20):
        boss.send(op="kill", id=str(number))
    assert {boss.gone(str(number))["status"] for number in range(20)} == {-9}
    assert boss.end() == (0, "")


def test_a_stop_that_comes_before_the_worker_has_its_end(boss: Boss) -> None:
    """A SIGTERM between fork and exec is the child's, not the spawner's."""
    boss.launch().connect()
    for number in range(30):
        boss.spawn(str(number), SLEEP)
        boss.send(op="stop", id=str(number), term_after=0.0, kill_after=PATIENCE)
    assert {boss.gone(str(number))["status"] for number in range(30)} == {-15}
    assert boss.end() == (0, "")


def test_no_container_is_told(boss: Boss) -> None:
    boss.launch().connect()
    if not boss.hello["controllers"]:
        pytest.skip("no controllers can be used here")
    boss.spawn("1", ["true"], limits=Limits(memory_bytes=2**63 - 1, processes=2**63 - 1))
    boss.event("spawn_failed", id="1")
    boss.spawn("2", ["true"])
    boss.gone("2")
    assert boss.end() == (0, "")
