"""Servers forked from an interpreter that has imported all they need, which anew takes longer than most tests.

What comes after the imports is the same: the command line, a session of its own, the environment, the end. What is
about the process itself (its environment and arguments as others see them, how it is started) is tested with servers
that have an interpreter of their own: ``pytest.mark.own_interpreter``.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 60.0  # a bound, not a wait
MOST_BYTES = 64 * 1024
PROGRAM = "import sys; from tests.harness.nursery import main; sys.exit(main(int(sys.argv[1])))"


class Forked:
    """A server from the nursery, a child of this process; what of `asyncio.subprocess.Process` tests need."""

    def __init__(self, pid: int, stderr: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stderr = stderr
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._ended.set()


class Nursery:
    """The interpreter, a child of this process, and the socket it is asked over."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(SECONDS)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno())],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    async def serve(self, flags: tuple[str, ...], environment: dict[str, str], folder: Path) -> Forked:
        """Have ``agentd serve`` with these flags forked, with `folder` as its working folder."""
        reader, writer = os.pipe()
        try:
            request = {"flags": flags, "environment": environment, "folder": str(folder)}
            socket.send_fds(self._socket, [json.dumps(request).encode()], [writer])
        finally:
            os.close(writer)
        stderr = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(stderr)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(reader, "rb", buffering=0))
        return Forked(int(self._socket.recv(MOST_BYTES)), stderr)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(SECONDS)


def _become(request: dict[str, object], stderr: int) -> list[str]:
    """In the child: what an interpreter of its own would find; the command line."""
    os.setsid()
    os.dup2(stderr, 2)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2:
            try:
                os.close(number)
            except OSError:
                continue  # that of the listing
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder, environment, flags = request["folder"], request["environment"], request["flags"]
    assert isinstance(folder, str)
    assert isinstance(environment, dict)
    assert isinstance(flags, list)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:1] = [folder, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    return ["serve", *flags]


def main(fd: int) -> int:
    """Fork a server for each request that comes over this socket, until its other end is closed."""
    import gc

    import aiosqlite  # noqa: F401 - what a server imports only when it runs
    import uvloop  # noqa: F401

    import supervisor.cli.serve
    import supervisor.serve  # noqa: F401
    from supervisor.cli import main as command
    from worker.spawner.linux import clone

    channel = socket.socket(fileno=fd)
    channel.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    while True:
        data, fds, _, _ = socket.recv_fds(channel, MOST_BYTES, 1)
        if not data:
            return 0
        pid = clone(as_sibling=True)
        if pid == 0:
            channel.detach()
            return command(_become(json.loads(data), fds[0]))
        os.close(fds[0])
        channel.send(str(pid).encode())
