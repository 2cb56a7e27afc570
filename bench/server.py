"""A real server in a process of its own, with a state folder in memory where there is one, and what it uses."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import psutil

from tests.harness.handover import inheriting

PATIENCE = 120.0
HZ = os.sysconf("SC_CLK_TCK")
ADDONS = Path(__file__).parent / "addons"


class BenchServer:
    """``async with BenchServer(WORKERS_MAX="500") as server``: started, warm, and stopped in the end."""

    def __init__(
        self, graphs: list[dict[str, Any]] | None = None, listener: socket.socket | None = None, **settings: str
    ) -> None:
        """`listener` is where the server listens, made by us; None: at any port."""
        shared = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="agentd-bench-", dir=shared if shared.is_dir() else None))
        self._settings = settings
        self._graphs = graphs
        self._listener = listener
        self.events: list[dict[str, Any]] = []
        self.process: asyncio.subprocess.Process | None = None
        self.pid = 0  # the control server's, which with a standby is not that of `process`
        self.spawner_pid = 0

    async def __aenter__(self) -> Self:
        if self._graphs is not None:
            (self.folder / "property.json").write_text(json.dumps({"ten": {"predefined_graphs": self._graphs}}))
        await self._begin()
        self.session = aiohttp.ClientSession(
            self.address, connector=aiohttp.TCPConnector(limit=256), timeout=aiohttp.ClientTimeout(total=PATIENCE)
        )
        return self

    async def again(self) -> None:
        """Stop, and start another one in the same folder."""
        await self.stop()
        await self._begin()

    async def _begin(self) -> None:
        await self._launch("127.0.0.1:0")
        async with asyncio.timeout(PATIENCE):
            await self._ready.wait()

    async def _launch(self, listen: str) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(ADDONS),
            "AGENTD_STATE_DIR": str(self.folder / "state"),
            "AGENTD_LISTEN": listen,
            "AGENTD_LOG_FORMAT": "json",
            **self._settings,
        }
        command = [sys.executable, "-m", "supervisor", "serve"]
        inherited = () if self._listener is None else (self._listener.fileno(),)
        self.process = await asyncio.create_subprocess_exec(
            *(inheriting(command, *inherited) if inherited else command),
            pass_fds=inherited,
            cwd=self.folder,
            env=environment,
            stderr=asyncio.subprocess.PIPE,
        )
        self._ready = asyncio.Event()
        self._reader = asyncio.create_task(self._read(self.process))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.session.close()
        await self.stop(signal.SIGINT)  # which ends the workers too, whatever the settings
        shutil.rmtree(self.folder, ignore_errors=True)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """A signal, and the end of the process."""
        assert self.process is not None
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            await self.process.wait()
            await self._reader

    async def replace(self) -> float:
        """SIGKILL, and another server on the same state folder and address; the time at which that was begun.

        A standby sees to the other one itself: then it is the time of the signal.
        """
        assert self.process is not None
        if self.pid != self.process.pid:
            began = time.perf_counter()
            os.kill(self.pid, signal.SIGKILL)  # a child of a process of ours that is alive
            return began
        self.process.kill()
        await self.process.wait()
        await self._reader
        began = time.perf_counter()
        await self._launch(self.address.removeprefix("http://"))
        return began

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        """POST; the envelope."""
        async with self.session.post(path, json=body) as response:
            answer: dict[str, Any] = await response.json()
            return answer

    async def must(self, path: str, **body: Any) -> None:
        """POST that must succeed."""
        answer = await self.post(path, **body)
        if answer["code"] != "0":
            raise RuntimeError(f"{path} {body}: {answer}")

    def cpu_seconds(self) -> float:
        """CPU time of the control server."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def rss_mb(self) -> float:
        """Resident memory of the control server."""
        return psutil.Process(self.pid).memory_info().rss / 1e6

    def worker_pss_mb(self) -> list[float]:
        """Proportional set size of every worker."""
        sizes = []
        for child in psutil.Process(self.spawner_pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.pid != self.zygote_pid:
                    sizes.append(child.memory_full_info().pss / 1e6)
        return sizes

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            event = json.loads(line)
            name = event["event"]
            if name == "server.ready":
                self.address = event["addresses"][0]
                self.pid, self.spawner_pid = event["pid"], event["spawner_pid"]
            elif name == "zygote.ready":
                self.zygote_pid = event["pid"]
                self._ready.set()
            if name.startswith(("channel.", "server.")) or event["level"] == "error":
                self.events.append(event)


@contextlib.asynccontextmanager
async def channels(server: BenchServer, count: int, graph: str, **fields: Any) -> AsyncIterator[None]:
    """Start `count` channels, 8 at a time."""
    gate = asyncio.Semaphore(8)

    async def one(number: int) -> None:
        async with gate:
            await server.must("/start", channel_name=f"bench-{number}", graph_name=graph, **fields)

    await asyncio.gather(*(one(number) for number in range(count)))
    yield
