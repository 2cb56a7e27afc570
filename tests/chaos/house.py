"""One state folder and the servers that follow each other on it, over as many trials as are wanted."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from supervisor.standby import MOST, MOST_SECONDS
from tests.conftest import ZOO
from tests.harness import Agentd, leaks
from tests.harness.graphs import ECHO
from tests.harness.server import Event
from worker.spawn import INSTANCE_VARIABLE, instance_of
from worker.spawner.identity import open_pidfd, read_stat, signal_pidfd

HERE = Path(__file__).parent
ADDONS = HERE / "addons"
FOREIGN = 2  # graphs of foreign workers
SECONDS = 30.0  # a bound, not a wait
DISK_BYTES = 48 * 1024 * 1024
SETTINGS = {
    "WORKER_STOP_GRACE_SECONDS": "0.6",
    "AGENTD_BEAT_SECONDS": "0.2",
    "AGENTD_ORPHAN_GRACE_SECONDS": "60",
    "WORKER_START_TIMEOUT_SECONDS": "20",
}


class House:
    """A state folder, a log folder, a port, and the server that answers there at present."""

    def __init__(self, folder: Path, containment: str = "auto") -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.logs = folder / "logs"
        self.witness = folder / "witness"
        self.server: Agentd | None = None
        self.notes: set[str] = set()  # what cannot be done on this machine
        self.disks: list[Path] = []
        self.restarts = 0
        self.unexpected: list[str] = []  # ends of servers that nobody killed
        self._killed = False
        self._standby = False
        self._followed: list[float] = []  # when the standby was to begin another server
        self._changing = asyncio.Lock()  # one at a time puts a server in the place of another
        self._remembered: dict[str, int] = {}
        self.containment = containment
        self._clock = folder / "clock"
        self._shim: Path | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]

    def open(self) -> None:
        """Make the folders, each on a small disk of its own where that may be, and what steps the clock."""
        for path in (self.state_dir, self.logs, self.witness):
            path.mkdir(mode=0o700)
        for path in (self.state_dir, self.logs):
            command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "none", str(path)]
            if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                self.disks.append(path)
            else:
                self.notes.add("no disk can be mounted: none is filled")
        self._clock.write_bytes(bytes(8))
        shim = self.folder / "clock.so"
        compiler = shutil.which("cc")
        command = [compiler or "", "-shared", "-fPIC", "-O1", "-o", str(shim), str(HERE / "clock.c")]
        if compiler and subprocess.run(command, check=False, capture_output=True).returncode == 0:
            self._shim = shim
        else:
            self.notes.add("no C compiler: no clock is stepped")

    def close(self) -> None:
        """Let go of the disks."""
        for disk in self.disks:
            subprocess.run(["umount", str(disk)], check=False, capture_output=True)

    def step_clock(self, seconds: int) -> None:
        """Put the wall clock of the server forward."""
        with self._clock.open("r+b", buffering=0) as file:  # in place: it is mapped, and must not be shorter meanwhile
            file.write(struct.pack("l", seconds))

    def graphs(self) -> list[dict[str, Any]]:
        """An agent and a command, both with a witness, which lies where no worker reaches it by itself."""
        isolation = {"write": [str(self.witness)]}
        node = {"type": "extension", "name": "t", "addon": "chaos_resident", "property": {"folder": str(self.witness)}}
        commands = [
            {
                "name": f"foreign{number}",
                "graph": {"nodes": []},
                "agentd": {
                    "command": [sys.executable, "-IS", str(ADDONS / "holds.py"), str(self.witness), f"foreign{number}"],
                    "isolation": isolation,
                },
            }
            for number in range(FOREIGN)
        ]
        return [ECHO, {"name": "resident", "graph": {"nodes": [node]}, "agentd": {"isolation": isolation}}, *commands]

    @property
    def port(self) -> int:
        """Where every server of this house answers."""
        return self._port

    @property
    def running(self) -> bool:
        """Whether a server's process is there, and shall be."""
        process = None if self.server is None else self.server.process
        return process is not None and process.returncode is None and not self._killed

    async def serve(self) -> Agentd:
        """The server that runs; a new one when the last was lost."""
        async with self._changing:
            if self.server is not None and self.running:
                return self.server
            await self._bury()
            self.server = self._successor()
            self._standby, self._followed = not self._standby, []  # every other one has a standby
            await self.server.start(**self._settings())
            self.restarts += 1
            return self.server

    async def try_to_serve(self, seconds: float) -> None:
        """Begin a new server, and kill it after so many seconds."""
        async with self._changing:
            await self._bury()
            self.server = server = self._successor()
            start = asyncio.create_task(server.start(**self._settings()), name="start")
            await until(lambda: server.process is not None or start.done(), 10.0)
            await asyncio.wait({start}, timeout=seconds)
            self.kill_server()
            with contextlib.suppress(AssertionError):  # it ended without being ready
                await start
            await self._bury()

    async def bury(self) -> None:
        """Take the status of a server that was killed."""
        async with self._changing:
            await self._bury()

    async def _bury(self) -> None:
        if self.server is None or self.running:
            return
        self._remembered = {role: pid for role in ("spawner", "zygote") if (pid := self.pid_of(role))}
        server, self.server = self.server, None
        status = await server.stop()
        if not self._killed:
            self.unexpected.append(f"a server ended by itself with status {status}: {server.events[-3:]}")
        self._killed = False

    async def kill_below_standby(self) -> None:
        """SIGKILL to the server alone, which its standby follows up; to both where that has none, or will not again.

        One that cannot start, since a disk is full, is the end of both: whoever started them starts them again.
        """
        now = asyncio.get_running_loop().time()
        self._followed = [at for at in self._followed if now - at < MOST_SECONDS]
        if self._standby and self.last("server.ready") is not None and len(self._followed) < MOST:
            self._followed.append(now)
            server, seen = self.server, len(self.server.events) if self.server else 0
            self.signal(self.pid_of("server"), signal.SIGKILL)

            def later(name: str, text: str = "") -> bool:
                events = server.events[seen:] if server else []
                return any(e.get("event") == name and text in e.get("text", "") for e in events)

            await until(lambda: not self.running or later("server.ready") or later("text", "cannot start"), SECONDS)
            if later("text", "cannot start") and server is self.server:
                await until(lambda: not self.running, SECONDS)
                self._killed = True
        else:
            self.kill_server()

    def kill_server(self) -> None:
        """SIGKILL, to its standby where it has one."""
        if self.running and self.server is not None and self.server.process is not None:
            self.server.process.kill()
            self._killed = True

    def last(self, *names: str) -> Event | None:
        """The last event of the present server's log that has one of these names."""
        events = self.server.events if self.server is not None else []
        return next((event for event in reversed(events) if event.get("event") in names), None)

    def pid_of(self, role: str) -> int | None:
        """The process that has this part at present, as far as that is known."""
        if role in ("server", "standby"):
            ready = self.last("server.ready")
            if not self.running or self.server is None or self.server.process is None:
                return None
            return int(ready["pid"]) if ready and role == "server" else self.server.process.pid
        names = ("zygote.ready",) if role == "zygote" else ("server.ready", "spawner.replaced")
        event = self.last(*names)
        if event is None:
            return self._remembered.get(role)
        return int(event["spawner_pid"] if event["event"] == "server.ready" else event["pid"])

    def is_ours(self, pid: int) -> bool:
        """Whether this process was started by this house."""
        marks = {
            f"{leaks.MARK}={os.environ[leaks.MARK]}".encode(),
            f"{INSTANCE_VARIABLE}={instance_of(self.state_dir)}".encode(),
        }
        try:
            return bool(marks & set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")))
        except OSError:
            return False

    def signal(self, pid: int | None, number: int) -> bool:
        """A signal to a process of this house, and to no other; whether it was there."""
        if not pid:
            return False
        pidfd = open_pidfd(pid)
        if pidfd is None:
            return False
        try:
            return self.is_ours(pid) and signal_pidfd(pidfd, number)
        finally:
            os.close(pidfd)

    def _successor(self) -> Agentd:
        server = Agentd(self.state_dir, self.folder, extra_path=ZOO)
        server.add_path(ADDONS)
        server.needs_zygote = False
        return server

    def _settings(self) -> dict[str, Any]:
        clock = {"LD_PRELOAD": str(self._shim), "CHAOS_CLOCK": str(self._clock)} if self._shim else {}
        return {
            "graphs": self.graphs(),
            "AGENTD_LISTEN": f"127.0.0.1:{self._port}",
            "AGENTD_CONTAINMENT": self.containment,
            "AGENTD_STANDBY": str(self._standby).lower(),
            "LOG_PATH": str(self.logs),
            **SETTINGS,
            **clock,
        }


@contextlib.asynccontextmanager
async def house_in(folder: Path, containment: str = "auto") -> AsyncIterator[House]:
    """A house; in the end its server is stopped, orderly."""
    house = House(folder, containment)
    house.open()
    try:
        yield house
    finally:
        try:
            if house.restarts:
                house.signal(house.pid_of("server"), signal.SIGCONT)
                await (await house.serve()).stop()  # whoever was killed has left a spawner, which only a server ends
        finally:
            house.close()


async def until(found: Callable[[], Any], seconds: float) -> Any:
    """The first true value of what is looked at again and again; its last one after so many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not (value := found()) and loop.time() < end:
        await asyncio.sleep(0.02)
    return value


def is_alive(pid: int, start_time: int) -> bool:
    """Whether this very process runs, or stands still."""
    stat = read_stat(pid)
    return stat is not None and stat.start_time == start_time and stat.state not in "ZX"
