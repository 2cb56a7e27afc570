"""Composition root: builds the parts of a server and hands them to each other. No logic of its own."""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from aiohttp import web

from supervisor.catalog import GraphCatalog
from supervisor.channels.channel import Channel, Surroundings
from supervisor.channels.preparation import Preparation
from supervisor.channels.table import ChannelTable
from supervisor.http.server import build_app
from supervisor.ports import PortAllocator
from supervisor.processes.bundle import clear_bundles, prepare_state
from supervisor.processes.logs import LogWriter, prune
from supervisor.processes.monitor import Monitor, Sample
from supervisor.processes.spawner import SpawnerClient, SpawnerOptions
from supervisor.settings import Settings

log = structlog.get_logger("supervisor.app")

HTTP_CLOSE_SECONDS: Final = 0.5
PRUNE_EVERY: Final = 100  # endings


class StateFolderHeldError(RuntimeError):
    """Another control server works with this state folder."""


class Server:
    """One control server: `start`, then requests are answered until `stop`."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """`environ` is what placeholders are expanded from and workers' environments are chosen from."""
        self.settings = settings
        self._environ = environ
        self._lock = -1

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Take the state folder, find or start the spawner, answer on `listeners`.

        Raises StateFolderHeldError, SpawnerUnavailableError, OSError.
        """
        settings = self.settings
        prepare_state(settings.state_dir)
        settings.log_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(settings.state_dir / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateFolderHeldError(f"another server works with {settings.state_dir}") from error
        self.writer = LogWriter()
        self.writer.start()
        self.writer.call(self._prune)
        self.spawner = SpawnerClient(
            settings.state_dir, SpawnerOptions(settings.containment, settings.orphan_grace_seconds), self._environ
        )
        ended = await self.spawner.start()
        cleared = await asyncio.to_thread(clear_bundles, settings.state_dir, settings.log_path)
        ports = PortAllocator()
        self.catalog = GraphCatalog(settings.property_file, app_dir=settings.import_dir, injections=settings.injections)
        self.table = ChannelTable(
            Surroundings(settings, self.spawner, self.writer),
            Preparation(settings, self.catalog, ports, self._environ),
            ports,
        )
        self._monitor = Monitor()
        self._runner = web.AppRunner(
            build_app(settings, self.table, self.catalog, sample=self._sample, details=self.details),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=HTTP_CLOSE_SECONDS,
        )
        await self._runner.setup()
        for listener in listeners:
            await web.SockSite(self._runner, listener).start()
        log.info(
            "server.ready",
            addresses=[_shown(listener) for listener in listeners],
            property=str(settings.property_file),
            state_dir=str(settings.state_dir),
            containment=self.spawner.hello["containment"],
            controllers=self.spawner.hello["controllers"],
            spawner_pid=self.spawner.hello["pid"],
            ended_channels=ended,
            cleared_folders=cleared,
        )
        for note in self.spawner.hello["notes"]:
            log.info("containment.note", note=note)

    async def stop(self) -> None:
        """Refuse new starts, stop every channel in parallel, then all parts. Bounded by the stop grace and a second."""
        began = time.monotonic()
        count = len(self.table.all())
        await self.table.shutdown()
        await self._runner.cleanup()
        await self.close()
        log.info("server.stopped", channels=count, seconds=round(time.monotonic() - began, 3))

    async def close(self) -> None:
        """Let go of everything, also after a start that failed half-way."""
        if hasattr(self, "spawner"):
            await self.spawner.close()
        if hasattr(self, "writer"):
            self.writer.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def details(self) -> dict[str, Any]:
        """What ``/health?details=1`` shows."""
        return {
            "containment": self.spawner.hello["containment"],
            "controllers": self.spawner.hello["controllers"],
            "notes": self.spawner.hello["notes"],
            "spawner_pid": self.spawner.hello["pid"],
            "workers": len(self.table.all()),
            "workers_max": self.settings.workers_max,
        }

    async def _sample(self, channels: Sequence[Channel]) -> Mapping[str, Sample]:
        return await self._monitor.sample(
            [(channel.id, channel.pid, channel.created_at) for channel in channels if channel.pid is not None]
        )

    def _prune(self) -> None:
        settings = self.settings
        removed = prune(
            settings.log_path, total_bytes=settings.log_total_bytes, keep_days=settings.log_keep_days, now=time.time()
        )
        if removed:
            log.info("log.pruned", files=removed)


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
