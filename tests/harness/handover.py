"""A listening socket that outlives its servers, as a service manager has it; and a client that forgives nothing."""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.server import PATIENCE, Agentd

# As sd_listen_fds(3) has it: the descriptor has the number 3, and the variables name the process that it is meant for.
INHERIT = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); "
    "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}; os.execv(sys.argv[2], sys.argv[2:])"
)


def inheriting(command: list[str], descriptor: int) -> list[str]:
    """The command line, behind what gives its process this descriptor as a socket to listen at."""
    return [sys.executable, "-I", "-S", "-c", INHERIT, str(descriptor), *command]


class Heir(Agentd):
    """A server that inherits the socket it listens at."""

    def __init__(self, listener: socket.socket, state_dir: Path, folder: Path, extra_path: Path) -> None:
        super().__init__(state_dir, folder, extra_path)
        self.inherited = (listener.fileno(),)

    def command(self, environment: dict[str, str]) -> list[str]:
        """The command line, behind what gives it the socket."""
        return inheriting(super().command(environment), *self.inherited)


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket at a free port of loopback, with a queue for those who wait while no server accepts."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener


class Line:
    """One connection that is kept as long as the server lets it. Nothing is asked twice: what breaks off has failed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: Any = None, *, keep: bool = True) -> tuple[int, Any]:
        """Status and body of an answer; with `keep` the connection is used again unless the server says not to."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        self._writer.write(head.encode() + (b"\r\n" if keep else b"Connection: close\r\n\r\n") + data)
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        answer = await self._reader.readexactly(int(headers["content-length"]))
        if not keep or headers.get("connection", "").lower() == "close":
            await self.close()
        return int(status.split()[1]), json.loads(answer)

    async def close(self) -> None:
        """Let go of the connection."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@dataclass
class Load:
    """So many requests a second: half of them on kept connections, the others, open loop, on new ones.

    One connection asks `per_connection` times a second. At most `most` requests on new connections wait at once, fewer
    than the socket's queue holds, and for an answer at most `patience` seconds: on a machine that is busy elsewhere
    the rate falls, and slow is not failed.
    """

    port: int
    rate: int = 200
    per_connection: int = 10
    most: int = 100
    patience: float = 4 * PATIENCE
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    slowest: float = 0.0
    _number: int = 0

    async def run(self, ended: asyncio.Event) -> None:
        """Ask until `ended` is set, then wait for the last answers."""
        kept = self.rate // 2 // self.per_connection
        async with asyncio.TaskGroup() as group:
            for number in range(kept):
                group.create_task(self._keep_asking(ended, number / kept))
            group.create_task(self._ask_anew(ended, group))

    async def _keep_asking(self, ended: asyncio.Event, phase: float) -> None:
        line = Line(self.port)
        try:
            due = time.monotonic() + phase / self.per_connection
            while not ended.is_set():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                # Not more often than this on one connection, but also not less often on the whole.
                due = max(due + 1 / self.per_connection, time.monotonic())
                await self._one(line, keep=True)
        finally:
            await line.close()

    async def _ask_anew(self, ended: asyncio.Event, group: asyncio.TaskGroup) -> None:
        due = time.monotonic()
        waiting = asyncio.Semaphore(self.most)
        while not ended.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += 2 / self.rate
            await waiting.acquire()
            group.create_task(self._one(Line(self.port), keep=False)).add_done_callback(lambda _: waiting.release())

    async def _one(self, line: Line, *, keep: bool) -> None:
        self._number += 1
        number = self._number
        match number % 10:
            case 0:
                await self._asked(line, "POST", "/start", {"channel_name": f"n{number}", "graph_name": "echo"}, keep)
                # Whoever started it may be gone: then there is nothing to stop, which is an answer as well.
                await self._asked(line, "POST", "/stop", {"channel_name": f"n{number}"}, keep, "10002")
            case 1 | 2 | 3:
                await self._asked(line, "GET", "/health", None, keep)
            case 4 | 5:
                await self._asked(line, "GET", "/list", None, keep)
            case _:
                await self._asked(line, "POST", "/ping", {"channel_name": f"k{number % 10}"}, keep, "10002")

    async def _asked(self, line: Line, method: str, path: str, body: Any, keep: bool, *also: str) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.patience):
                status, answer = await line.ask(method, path, body, keep=keep)
            if status != 200 or answer["code"] not in ("0", *also):
                self.failed.append(f"{method} {path}: {status} {answer}")
        except (OSError, EOFError, TimeoutError) as error:
            kept = "kept" if keep else "new"
            self.failed.append(f"{method} {path} on a {kept} connection: {type(error).__name__} {error}")
            await line.close()
        self.answered += 1
        self.slowest = max(self.slowest, time.monotonic() - began)
