"""What a worker is born with, and what it is not."""

import json
import os
import resource
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.boss import Boss
from worker.spawn import Limits

LOOK = """
import json, os, resource, signal, sys
found = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
fds = {os.path.basename(path): os.readlink(path) for path in found if os.path.exists(path)}
print(json.dumps({
    "fds": fds, "environ": dict(os.environ), "cwd": os.getcwd(), "sid": os.getsid(0), "pid": os.getpid(),
    "umask": os.umask(0), "ppid": os.getppid(),
    "limits": {
        name: resource.getrlimit(getattr(resource, "RLIMIT_" + name))
        for name in ("CORE", "NOFILE", "FSIZE", "CPU", "AS")
    },
    "status": open("/proc/self/status").read(),
    "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
}))
"""
LIMITS = Limits(open_files=123, file_bytes=1 << 20, cpu_seconds=77, memory_bytes=1 << 30)
SECRET = {"PLANTED_SECRET": "hush"}
SITE = """
import worker.spawner.linux as linux
def clone(*_, **__): raise linux.CloneUnavailableError("not here")
linux.clone = clone
"""


@pytest.fixture(params=["clone", "fork twice"])
def patched(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """A folder for PYTHONPATH that takes clone3 away, or none."""
    if request.param == "clone":
        return None
    folder = tmp_path / "patch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    return folder


def status_field(text: str, name: str) -> str:
    return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(name + ":"))


@pytest.mark.parametrize("level", ["auto", "sweep"])
def test_a_foreign_worker(boss: Boss, patched: Path | None, level: str, tmp_path: Path) -> None:
    boss.launch("--containment", level, path=patched, **SECRET).connect()
    boss.spawn("1", [sys.executable, "-I", "-c", LOOK], limits=LIMITS, environment={"GIVEN": "1"}, cwd=str(tmp_path))
    seen: dict[str, Any] = json.loads(boss.output("1"))
    assert boss.gone("1")["status"] == 0
    folder = boss.folder("1")
    assert seen["fds"] == {"0": "/dev/null", "1": str(folder / "out"), "2": str(folder / "err")}
    assert seen["environ"].pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"
    assert seen["environ"] == {"PATH": os.environ["PATH"], "AGENTD_CHANNEL_ID": "x", "GIVEN": "1"}
    assert (seen["cwd"], seen["umask"], seen["blocked"]) == (str(tmp_path), 0o077, 0)
    assert seen["sid"] == seen["pid"]
    assert seen["ppid"] == boss.hello["pid"]
    assert status_field(seen["status"], "NoNewPrivs") == "1"
    limits = {name: tuple(value) for name, value in seen["limits"].items()}
    memory = (1 << 30,) * 2 if "memory" not in boss.hello["controllers"] else resource.getrlimit(resource.RLIMIT_AS)
    assert limits == {"CORE": (0, 0), "NOFILE": (123, 123), "FSIZE": (1 << 20,) * 2, "CPU": (77, 77), "AS": memory}
    assert boss.end() == (0, "")


@pytest.mark.parametrize("level", ["auto", "sweep"])
def test_a_worker_of_ours(boss: Boss, patched: Path | None, level: str) -> None:
    boss.launch("--containment", level, path=patched, **SECRET).connect()
    boss.spawn("1", limits=LIMITS, environment={"GIVEN": "1"})
    pid = boss.ready("1")
    proc = Path(f"/proc/{pid}")
    folder = boss.folder("1")
    kinds = {os.readlink(path).split(":")[0] for path in (proc / "fd").iterdir()}
    own = {str(folder / name) for name in ("out", "err", "up", "down", "lock")}
    # The lifeline is a pipe, its event loop has an epoll and a pair of sockets.
    assert kinds == {"/dev/null", "pipe", "socket", "anon_inode"} | own
    status = (proc / "status").read_text()
    assert status_field(status, "NoNewPrivs") == "1"
    assert status_field(status, "Umask") == "0077"
    assert status_field(status, "PPid") == str(boss.hello["pid"])
    assert status_field(status, "Threads") == "1"
    assert os.getsid(pid) == pid
    assert os.readlink(proc / "cwd") == str(folder)
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (123, 123)
    assert resource.prlimit(pid, resource.RLIMIT_CPU) == (77, 77)
    assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
    environ = (proc / "environ").read_bytes()
    assert b"AGENTD_CHANNEL_ID=1 " in environ
    boss.kill("1")
    assert boss.end() == (0, "")


def test_a_folder_is_for_its_user_only(boss: Boss) -> None:
    boss.launch().connect()
    boss.spawn("1", ["sh", "-c", "echo x > made; echo done; exec sleep 1000"], cwd=None)
    boss.output("1")
    folder = boss.folder("1")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "made").stat().st_mode) == 0o600
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("up", "down", "out", "err")} == {0o600}
    assert stat.S_IMODE((boss.state_dir / "spawn.sock").stat().st_mode) & 0o077 == 0 or (
        stat.S_IMODE(boss.state_dir.stat().st_mode) == 0o700
    )
    boss.kill("1")
