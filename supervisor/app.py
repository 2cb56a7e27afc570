"""Composition root: builds the parts of a server and hands them to each other. No logic of its own."""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from supervisor.addresses import Address
from supervisor.attachments.handout import Handouts
from supervisor.attachments.readers import Readers
from supervisor.attachments.service import Attachments
from supervisor.auth import Bounds
from supervisor.catalog import GraphCatalog
from supervisor.channels.channel import Channel
from supervisor.channels.confinement import Confinement
from supervisor.channels.preparation import Preparation
from supervisor.channels.surroundings import Surroundings
from supervisor.channels.table import ChannelTable
from supervisor.chronicle import Chronicle
from supervisor.http.connections import Site, make_runner
from supervisor.http.credentials import Credentials
from supervisor.http.server import build_app
from supervisor.keys import Keyring
from supervisor.ports import PortAllocator
from supervisor.processes.bundle import clear_bundles, prepare_state
from supervisor.processes.launch import SpawnerOptions
from supervisor.processes.logs import LogWriter, prune
from supervisor.processes.monitor import Monitor, Sample
from supervisor.processes.rota import Rota
from supervisor.processes.spawner import SpawnerClient
from supervisor.settings import Settings
from supervisor.store.store import Store
from supervisor.tokens import Tokens
from supervisor.turns.archive import StoreArchive
from supervisor.turns.sessions import Sessions
from worker.spawn import instance_of

log = structlog.get_logger("supervisor.app")

HTTP_CLOSE_SECONDS: Final = 0.5
SESSIONS_SECONDS: Final = 2.0
PRUNE_SECONDS: Final = 60.0


class StateFolderHeldError(RuntimeError):
    """Another control server works with this state folder."""


class Server:
    """One control server: `start`, then requests are answered until `stop`."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """`environ` is what placeholders are expanded from and workers' environments are chosen from."""
        self.settings = settings
        self._environ = environ
        self._parts = AsyncExitStack()  # what was started, to be closed in the opposite order

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Take the state folder, find or start the spawner, answer on `listeners`.

        Raises StateFolderHeldError, SpawnerUnavailableError, StoreError, KeysError, OSError.
        """
        settings = self.settings
        credentials = _credentials_of(settings)
        prepare_state(settings.state_dir)
        settings.log_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._parts.callback(os.close, _hold(settings.state_dir))
        self.writer = LogWriter()
        self.writer.start()
        self._parts.push_async_callback(asyncio.to_thread, self.writer.close)
        self.writer.call(self._prune)
        self.spawner = SpawnerClient(
            settings.state_dir, SpawnerOptions(settings.containment, settings.orphan_grace_seconds), self._environ
        )
        self._parts.push_async_callback(self.spawner.close)
        ended = await self.spawner.start()
        cleared = await asyncio.to_thread(clear_bundles, settings.state_dir, settings.log_path)
        ports = PortAllocator()
        self.catalog = GraphCatalog(settings.property_file, app_dir=settings.import_dir, injections=settings.injections)
        self.store = _store_of(settings)
        await self.store.open()
        self._parts.push_async_callback(self.store.close)
        self.attachments = _attachments_of(settings, self.store, self.spawner, self._environ)
        self._parts.push_async_callback(self.attachments.close)
        await self.attachments.open()
        handouts = Handouts(settings.attachments_dir, instance_of(settings.state_dir))
        await asyncio.to_thread(handouts.clear)
        self._chronicle = Chronicle(self.store.note)
        self.table = ChannelTable(
            Surroundings(settings, self.spawner, self.writer, Rota(), self._chronicle.tell, handouts),
            Preparation(settings, self.catalog, ports, self._environ),
            ports,
        )
        self.sessions = Sessions(settings, self.table, StoreArchive(self.store, settings))
        self._monitor = Monitor()
        runner = make_runner(
            build_app(
                settings,
                self.table,
                self.catalog,
                sample=self._sample,
                details=self.details,
                sessions=self.sessions,
                lives=self._chronicle.feed,
                records=self.store,
                shelf=self.store,
                conversations=self.store,
                credentials=credentials,
                attachments=self.attachments,
            ),
            close_seconds=HTTP_CLOSE_SECONDS,
        )
        await runner.setup()
        self._parts.push_async_callback(runner.cleanup)
        for listener in listeners:
            await Site(runner, listener).start()
        pruning = asyncio.create_task(self._prune_often(), name="log pruning")
        self._parts.push_async_callback(_cancelled, pruning)
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
        for note in self.spawner.hello["isolation"]["notes"]:
            log.info("isolation.note", note=note)

    async def stop(self) -> None:
        """Refuse new starts, stop every channel in parallel, then all parts. Bounded by the stop grace and a second."""
        began = time.monotonic()
        count = len(self.table.all())
        self.sessions.close()
        await self.table.shutdown()
        await self.sessions.drain(SESSIONS_SECONDS)
        await self.close()
        log.info("server.stopped", channels=count, seconds=round(time.monotonic() - began, 3))

    async def close(self) -> None:
        """Let go of everything, also after a start that failed half-way."""
        await self._parts.aclose()

    def details(self) -> dict[str, Any]:
        """What ``/health?details=1`` shows."""
        return {
            "containment": self.spawner.hello["containment"],
            "controllers": self.spawner.hello["controllers"],
            "notes": self.spawner.hello["notes"],
            "isolation": {"default": self.settings.isolation, **self.spawner.hello["isolation"]},
            "spawner": "attached" if self.spawner.attached else "lost",
            "spawner_pid": self.spawner.hello["pid"],
            "store": self.store.details(),
            "workers": len(self.table.all()),
            "workers_max": self.settings.workers_max,
        }

    async def _sample(self, channels: Sequence[Channel]) -> Mapping[str, Sample]:
        return await self._monitor.sample(
            [(channel.id, channel.pid, channel.created_at) for channel in channels if channel.pid is not None]
        )

    def _prune(self, live: frozenset[Path] = frozenset()) -> None:
        settings = self.settings
        removed = prune(
            settings.log_path,
            total_bytes=settings.log_total_bytes,
            keep_days=settings.log_keep_days,
            now=time.time(),
            live=live,
        )
        if removed:
            log.info("log.pruned", files=removed)

    async def _prune_often(self) -> None:
        """Bound the logs while the server runs; files of live channels stay."""
        while True:
            await asyncio.sleep(PRUNE_SECONDS)
            self.writer.call(partial(self._prune, frozenset(channel.log_file for channel in self.table.all())))


def _store_of(settings: Settings) -> Store:
    return Store(
        settings.store_url.get_secret_value(),
        instance=instance_of(settings.state_dir),
        history_messages=settings.history_messages,
        history_bytes=settings.history_bytes,
        store_keep_days=settings.store_keep_days,
        ledger_keep_days=settings.ledger_keep_days,
    )


def _attachments_of(
    settings: Settings, store: Store, spawner: SpawnerClient, environ: Mapping[str, str]
) -> Attachments:
    readers = Readers(
        spawner,
        settings.state_dir,
        environ,
        at_once=settings.attachment_readers,
        seconds=settings.attachment_seconds,
        memory_bytes=settings.attachment_memory_bytes,
        hidden=Confinement(settings).hidden,
    )
    return Attachments(
        store.attachments,
        readers,
        settings.attachments_dir,
        instance=instance_of(settings.state_dir),
        keep_days=settings.attachments_keep_days,
        user_bytes=settings.attachments_user_bytes,
        total_bytes=settings.attachments_total_bytes,
        queue=settings.attachment_queue,
    )


def _credentials_of(settings: Settings) -> Credentials:
    token = None if settings.token is None else settings.token.get_secret_value()
    closed = settings.has_to_be_protected or settings.jwt_secret is not None
    return Credentials(Keyring(settings.keys_file, token, closed=closed), _tokens_of(settings))


def _tokens_of(settings: Settings) -> Tokens | None:
    if settings.jwt_secret is None:
        return None
    return Tokens(settings.jwt_secret.get_secret_value(), Bounds(settings.jwt_turns_per_minute, settings.jwt_channels))


def _hold(state_dir: Path) -> int:
    """The descriptor of the lock that only one control server has; it falls with its holder."""
    lock = os.open(state_dir / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StateFolderHeldError(f"another server works with {state_dir}") from error
    return lock


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _shown(listener: socket.socket) -> str:
    return f"http://{Address(*listener.getsockname()[:2])}"
