"""Tries to get out of its confinement, and what it must be able to do within; says how each attempt ended.

``python prisoner.py TARGETS [OUTPUT]``: TARGETS is a JSON object of paths and process numbers; the outcomes, a JSON
object of names to "done" or the name of an error, are written to OUTPUT (``found.json`` in the channel's folder).
Nothing here imports anything of agentd.
"""

import ctypes
import errno
import json
import multiprocessing
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

X86 = platform.machine() == "x86_64"
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x1000_0000
TRACE_ATTACH = 16
TRACE_DETACH = 17

# Numbers on x86-64, and elsewhere; arguments with which they fail harmlessly where they are allowed.
CALLS: dict[str, tuple[int, int, tuple[Any, ...]]] = {
    "mount": (165, 40, (0, b"/nowhere", 0, 0, 0)),
    "pivot_root": (155, 41, (b"/nowhere", b"/nowhere")),
    "chroot": (161, 51, (b"/nowhere",)),
    "fsopen": (430, 430, (0, 0)),
    "unshare": (272, 97, (0,)),
    "setns": (308, 268, (-1, 0)),
    "bpf": (321, 280, (-1, 0, 0)),
    "keyctl": (250, 219, (-1,)),
    "add_key": (248, 217, (0, 0, 0, 0, 0)),
    "perf_event_open": (298, 241, (0, 0, 0, 0, 0)),
    "userfaultfd": (323, 282, (-1,)),
    "io_uring_setup": (425, 425, (0, 0)),
    "open_by_handle_at": (304, 265, (-1, 0, 0)),
    "init_module": (175, 105, (0, 0, 0)),
    "kexec_load": (246, 104, (0, 0, 0, -1)),
    "process_vm_readv": (310, 270, (0, 0, 0, 0, 0, -1)),
    "pidfd_getfd": (438, 438, (-1, -1, 0)),
    "swapon": (167, 224, (0, -1)),
    "reboot": (169, 142, (0, 0, 0, 0)),
    "clock_settime": (227, 112, (-1, 0)),
}


def call(number: int, *arguments: Any) -> int:
    """A raw system call; raises OSError."""
    typed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = LIBC.syscall(ctypes.c_long(number), *typed)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def tried(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    except Exception as error:
        return repr(error)
    return "done"


def read(path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        file.read(1)


def write(path: str) -> None:
    with open(path, "a"):
        pass


def trace(pid: int) -> None:
    number = 101 if X86 else 117
    call(number, TRACE_ATTACH, pid, 0, 0)
    os.waitpid(pid, 0)
    call(number, TRACE_DETACH, pid, 0, 0)


def slow(pid: int) -> None:
    """As slow as it is: the right to make it slower is what counts."""
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid))


def new_user() -> None:
    pid = call(56 if X86 else 220, CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def connect(kind: int, address: Any) -> None:
    family = socket.AF_UNIX if not isinstance(address, tuple) else socket.AF_INET
    with socket.socket(family, kind) as peer:
        peer.settimeout(5)
        peer.connect(address)


def abstract() -> None:
    connect(socket.SOCK_STREAM, "\0" + TARGETS["abstract"])


def foreign_call() -> None:
    """A call by the numbers of another architecture: getpid of x32."""
    call(0x4000_0000 + 39 if X86 else -1)


def escapes(targets: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """What has to be denied, as far as there are targets."""
    found: dict[str, Callable[[], object]] = {}
    for name, path in targets.get("read", {}).items():
        found[f"read {name}"] = lambda path=path: read(path)
    for name, path in targets.get("list", {}).items():
        found[f"list {name}"] = lambda path=path: os.listdir(path)
    for name, path in targets.get("write", {}).items():
        found[f"write {name}"] = lambda path=path: write(path)
    for name, pid in targets.get("processes", {}).items():
        found[f"read environment of {name}"] = lambda pid=pid: Path(f"/proc/{pid}/environ").read_bytes()
        found[f"signal {name}"] = lambda pid=pid: os.kill(pid, 0)
        found[f"limit {name}"] = lambda pid=pid: _limit(pid)
        found[f"trace {name}"] = lambda pid=pid: trace(pid)
        found[f"slow {name}"] = lambda pid=pid: slow(pid)
    found["pair of datagram sockets"] = lambda: [end.close() for end in socket.socketpair(type=socket.SOCK_DGRAM)]
    found["signal everybody"] = lambda: os.kill(-1, 0)
    if "socket" in targets:
        found["socket of the spawner"] = lambda: connect(socket.SOCK_SEQPACKET, targets["socket"])
    if "abstract" in targets:
        found["abstract socket"] = abstract
    for name, (x86, other, arguments) in CALLS.items():
        number = x86 if X86 else other
        found[f"call {name}"] = lambda number=number, given=arguments: call(number, *given)
    found["clone a user namespace"] = new_user
    if targets.get("x32", True):  # else a service manager's filter ends whoever tries
        found["call x32"] = foreign_call
    found["truncate"] = lambda: os.truncate(targets["truncate"], 1) if "truncate" in targets else os.truncate("/x", 1)
    return found


def _limit(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def _pool() -> None:
    # Ended in peace: a SIGTERM to a fork of a worker would be taken for one to the worker by its event loop.
    pool = multiprocessing.get_context("fork").Pool(2)
    assert pool.map(abs, [-1, -2]) == [1, 2]
    pool.close()
    pool.join()


def _thread() -> None:
    said: list[int] = []
    thread = threading.Thread(target=said.append, args=(1,))
    thread.start()
    thread.join()
    assert said == [1]


def _child() -> None:
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _move() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a").mkdir()
        Path(folder, "a", "x").write_text("x")
        Path(folder, "b").symlink_to("a")
        Path(folder, "a", "x").rename(Path(folder, "y"))
        os.mkfifo(f"{folder}/z")


def _late() -> None:
    import sqlite3
    import xml.dom.minidom

    sqlite3.connect(":memory:").close()
    xml.dom.minidom.parseString("<a/>")


def _tls() -> None:
    import ssl

    context = ssl.create_default_context()
    assert context.get_ca_certs() or not Path("/etc/ssl/certs/ca-certificates.crt").exists()


def _python() -> None:
    subprocess.run([sys.executable, "-c", "import json, ctypes"], check=True, capture_output=True)


def _node() -> None:
    subprocess.run(["node", "-e", "setTimeout(() => 0, 1)"], check=True, capture_output=True)


def legal(targets: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """What has to work."""
    found: dict[str, Callable[[], object]] = {
        "own folder": lambda: write(f"{os.environ.get('AGENTD_CHANNEL_FOLDER', '.')}/mine"),
        "temporary files": _move,
        "late import": _late,
        "certificates": _tls,
        "thread": _thread,
        "child": _child,
        "pool": _pool,
        "program": lambda: subprocess.run(["ls", "/usr"], check=True, capture_output=True),
        "python": _python,
        "devices": lambda: (write("/dev/null"), read("/dev/urandom")),
        "pair": lambda: [end.close() for end in socket.socketpair()],
        "name": lambda: socket.getaddrinfo("localhost", 80),
    }
    if targets.get("node"):
        found["node"] = _node
    for name, address in targets.get("connect", {}).items():
        found[f"connect {name}"] = lambda address=address: connect(socket.SOCK_STREAM, tuple(address))
    return found


TARGETS: dict[str, Any] = {}


def attempt(targets: dict[str, Any]) -> dict[str, str]:
    """The outcomes of all attempts, by name; those of what has to work begin with "can"."""
    TARGETS.update(targets)
    outcomes = {name: tried(act) for name, act in escapes(targets).items()}
    return {**outcomes, **{f"can {name}": tried(act) for name, act in legal(targets).items()}}


def tell(targets: dict[str, Any], output: str = "") -> None:
    """Try, and leave the outcomes in a file, whole."""
    output = output or f"{os.environ['AGENTD_CHANNEL_FOLDER']}/found.json"
    outcomes = attempt(targets)
    Path(f"{output}.new").write_text(json.dumps(outcomes))
    Path(f"{output}.new").rename(output)


if __name__ == "__main__":
    tell(json.loads(sys.argv[1]), *sys.argv[2:])
    while True:
        signal.pause()
