"""Two FIFOs between a test and the workers it lets loose: the cue to begin, and what they tell of themselves."""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.server import PATIENCE
from worker.spawner.identity import read_stat


class Witness:
    """Hears what beasts say, each with the number of the process that says it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[tuple[str, int]] = []
        self.seen: dict[int, int] = {}  # processes that said something, with their start times
        self._rest = b""
        self._heard = asyncio.Event()
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        self._fds = []
        for name in ("witness", "cue"):
            os.mkfifo(folder / name, 0o600)
            self._fds.append(os.open(folder / name, flags))

    def open(self) -> None:
        asyncio.get_running_loop().add_reader(self._fds[0], self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fds[0])
        for fd in self._fds:
            os.close(fd)

    def cue(self) -> None:
        """Let one beast begin."""
        os.write(self._fds[1], b".")

    async def hears(self, text: str) -> int:
        """Wait until a beast has said something that begins like this; the number of its process."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for said, pid in self.said:
                    if said.startswith(text):
                        return pid
                self._heard.clear()
                await self._heard.wait()

    def alive(self) -> list[int]:
        """Of the processes that said something, those that live."""
        return [pid for pid, began in self.seen.items() if lives(pid, began)]

    def held(self) -> bool:
        """Whether a process lives that descends from one that took the beasts' lock."""
        fd = os.open(self.folder / "witness", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _read(self) -> None:
        *lines, self._rest = (self._rest + os.read(self._fds[0], 65536)).split(b"\n")
        for line in lines:
            text, _, pid = line.decode().rpartition(" ")
            self.said.append((text, int(pid)))
            stat = read_stat(int(pid))
            if stat is not None:
                self.seen[int(pid)] = stat.start_time
        self._heard.set()


def lives(pid: int, start_time: int | None = None) -> bool:
    """Whether this very process runs; a zombie does not."""
    stat = read_stat(pid)
    return stat is not None and stat.state not in "ZX" and start_time in {None, stat.start_time}


@contextmanager
def witness_in(folder: Path) -> Iterator[Witness]:
    """A witness whose FIFOs lie in `folder`."""
    witness = Witness(folder)
    witness.open()
    try:
        yield witness
    finally:
        witness.close()
