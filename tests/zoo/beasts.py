"""What hostile workers do, each function one thing. Own workers call them (`zoo.Beast`), foreign ones are this script.

``python beasts.py BEAST FOLDER [--cue]``: FOLDER has the FIFOs ``witness`` (a beast tells there what it has done and
which processes are its own) and, with ``--cue``, ``cue`` (it waits there for the word to begin).
"""

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

MEGABYTE = 1_000_000
MOST_FORKS = 300
MOST_GENERATIONS = 20_000


class Say:
    """What a beast tells the witness."""

    def __init__(self, folder: str) -> None:
        self._path = f"{folder}/witness"

    def __call__(self, text: str) -> None:
        fd = os.open(self._path, os.O_WRONLY)
        os.write(fd, f"{text} {os.getpid()}\n".encode())
        os.close(fd)

    def hold(self) -> None:
        """Take a lock that is free again when this process and all that descend from it have ended."""
        fcntl.flock(os.open(self._path, os.O_WRONLY), fcntl.LOCK_EX)


def channel_file(name: str) -> str:
    return f"{os.environ['AGENTD_CHANNEL_FOLDER']}/{name}"


def _linger() -> NoReturn:
    while True:
        signal.pause()


def _child(act: Callable[[], object]) -> int:
    """Fork; the child acts and never comes back."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        act()
        _linger()
    finally:
        os._exit(99)


def stay(say: Say) -> None:
    say("here")


def ignore_sigterm(say: Say) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("deaf to SIGTERM")


def _daemon(act: Callable[[], object]) -> None:
    def first() -> None:
        os.setsid()
        _child(act)
        os._exit(0)

    os.waitpid(_child(first), 0)


def daemon_fork(say: Say) -> None:
    _daemon(lambda: say("daemon"))


def daemon_exec(say: Say) -> None:
    _daemon(lambda: (say("daemon"), os.execv("/bin/sleep", ["sleep", "1000"])))


def daemon_bare(say: Say) -> None:
    """Nothing in its session, its parents or its environment tells whose it is."""
    _daemon(lambda: (say("daemon"), os.execve("/bin/sleep", ["sleep", "1000"], {})))


def daemon_stubborn(say: Say) -> None:
    _daemon(lambda: (signal.signal(signal.SIGTERM, signal.SIG_IGN), say("daemon")))


def storm(say: Say) -> None:
    """Many at once, until there are enough or the limit says no."""
    count = 0
    try:
        while count < MOST_FORKS:
            _child(lambda: None)
            count += 1
    except OSError:
        say(f"denied after {count}")
    else:
        say("stormed")


def run_away(say: Say) -> None:
    """Never the same process for longer than a fork takes."""

    def run() -> None:
        os.setsid()
        say.hold()
        for generation in range(MOST_GENERATIONS):
            if os.fork():
                os._exit(0)
            if generation == 5:
                say("running away")
        os._exit(0)

    _child(run)


def flood(say: Say) -> None:
    lines = (b"x" * 99 + b"\n") * (MEGABYTE // 100)
    for _ in range(100):
        view = memoryview(lines)
        while view:
            view = view[os.write(1, view) :]
    say("flooded")


GARBAGE = (
    b'{"t":"beat","n":1',
    b'{"t":"event","n":2,"text":"\xff\xfe\x80"}',
    b"\xc0\xc1\xf5\xff",
    b"[]",
    b"nul \0 nul",
    b'{"n":5}',
    b'{"t":7,"n":5}',
    b'{"t":"state","n":"7"}',
    b'{"t":"state","n":true}',
    b"{" * 100_000,
    b"x" * (10 * MEGABYTE),
    b'{"t":"state","n":1,"error":"' + b"y" * (10 * MEGABYTE) + b'"}',
)


def _write_up(data: bytes) -> None:
    fd = os.open(channel_file("up"), os.O_WRONLY)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.close(fd)


def garble(say: Say) -> None:
    _write_up(b"\n" + b"\n".join(GARBAGE) + b"\n")
    say("garbled")


def tear(say: Say) -> None:
    """Half a frame: what the worker itself writes next is torn."""
    _write_up(b'{"t":"state","n":99,"half":"')
    say("torn")


def garble_on(say: Say) -> None:
    say("garbling")
    _write_up(b"no frame\n" * 1_000_000)


def block(say: Say) -> None:
    say("blocking")
    time.sleep(30)


def _allocate() -> NoReturn:
    held = []
    while True:
        held.append(b"x" * (4 * MEGABYTE))


def allocate(say: Say) -> None:
    say("allocating")
    _allocate()


def allocate_in_child(say: Say) -> None:
    """The kernel kills the child, the worker sees it and fails: no kill of the worker for memory."""
    _, status = os.waitpid(_child(_allocate), 0)
    say("child was killed" if os.WIFSIGNALED(status) else "child ended")
    os._exit(7)


def exit_0(_: Say) -> None:
    os._exit(0)


def exit_1(_: Say) -> None:
    os._exit(1)


def die_of_signal(_: Say) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave_child(say: Say) -> None:
    def stay_behind() -> None:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say("child")
        os.write(writer, b".")

    reader, writer = os.pipe()
    _child(stay_behind)
    os.read(reader, 1)
    os._exit(0)


def ravage(say: Say) -> None:
    """Take the channel's folder apart and leave a heap of files in it."""
    folder = os.environ["AGENTD_CHANNEL_FOLDER"]
    os.rmdir(f"{folder}/tmp")
    for name in os.listdir(folder):
        os.unlink(f"{folder}/{name}")
    os.makedirs(f"{folder}/a/b/c")
    for number in range(300):
        with open(f"{folder}/a/b/c/{number}", "wb"):
            pass
    os.mkdir(f"{folder}/down")
    say("ravaged")


def vanish(say: Say) -> None:
    shutil.rmtree(os.environ["AGENTD_CHANNEL_FOLDER"])
    say("vanished")


def main(beast: str, folder: str, *flags: str) -> NoReturn:
    if "--cue" in flags:
        with open(f"{folder}/cue", "rb", buffering=0) as cue:
            cue.read(1)
    globals()[beast](Say(folder))
    _linger()


if __name__ == "__main__":
    main(*sys.argv[1:])
