"""Composition root: builds the parts of a server and hands them to each other. No logic of its own."""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from supervisor.attachments.handout import Handouts
from supervisor.attachments.readers import Readers
from supervisor.attachments.service import Attachments
from supervisor.auth import Bounds
from supervisor.catalog import GraphCatalog
from supervisor.causes import Refusal
from supervisor.channels.channel import Channel
from supervisor.channels.confinement import Confinement
from supervisor.channels.preparation import Preparation
from supervisor.channels.surroundings import Surroundings
from supervisor.channels.table import ChannelTable
from supervisor.chronicle import Chronicle
from supervisor.http.connections import Site, make_runner
from supervisor.http.credentials import Credentials
from supervisor.http.leaving import depart
from supervisor.http.server import build_app
from supervisor.keys import Keyring
from supervisor.listener import url_of
from supervisor.ports import PortAllocator
from supervisor.processes.adopt import Survivor, survivors
from supervisor.processes.bundle import clear_bundles, prepare_state
from supervisor.processes.launch import options_of
from supervisor.processes.leftovers import Leftovers
from supervisor.processes.logs import LogWriter, prune
from supervisor.processes.marks import OURS, Marks
from supervisor.processes.monitor import Monitor, Sample
from supervisor.processes.rota import Rota
from supervisor.processes.spawner import SpawnerClient
from supervisor.proofs import Proofs
from supervisor.settings import Settings
from supervisor.store.errors import StoreError
from supervisor.store.records import ResponseRow
from supervisor.store.store import Store
from supervisor.tokens import Tokens
from supervisor.turns.archive import StoreArchive
from supervisor.turns.drain import Drain
from supervisor.turns.sessions import Sessions
from supervisor.turns.turn import Turn
from worker.spawn import instance_of

log = structlog.get_logger("supervisor.app")

HTTP_CLOSE_SECONDS: Final = 0.5
SESSIONS_SECONDS: Final = 2.0
PRUNE_SECONDS: Final = 60.0
ALIVE_SECONDS: Final = 0.2


class StateFolderHeldError(RuntimeError):
    """Another control server works with this state folder."""


class Server:
    """One control server: `start`, then requests are answered until `stop`."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """`environ` is what placeholders are expanded from and workers' environments are chosen from."""
        self.settings = settings
        self._environ = environ
        self._parts = AsyncExitStack()  # what was started, to be closed in the opposite order
        self._leaves_workers = False

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Take the state folder, find or start the spawner, answer on `listeners`.

        Raises StateFolderHeldError, SpawnerUnavailableError, StoreError, KeysError, OSError.
        """
        settings = self.settings
        self._credentials = credentials = _credentials_of(settings)
        instance = instance_of(settings.state_dir)
        prepare_state(settings.state_dir)
        settings.log_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._parts.callback(os.close, _hold(settings.state_dir))
        self.writer = LogWriter()
        self.writer.start()
        self._parts.push_async_callback(asyncio.to_thread, self.writer.close)
        self.writer.call(self._prune)
        self.spawner = SpawnerClient(settings.state_dir, options_of(settings), self._environ)
        self._parts.push_async_callback(self._part_with_spawner)
        await self.spawner.start()
        marks = Marks(settings.state_dir)
        self._parts.callback(marks.close)
        found = await asyncio.to_thread(self._survivors, instance, marks.read(OURS).at)
        self._leaves_workers = bool(found)  # for another try, should this start fail
        ports = PortAllocator()
        self.catalog = GraphCatalog(settings.property_file, app_dir=settings.import_dir, injections=settings.injections)
        self.store = _store_of(settings)
        turns = [survivor.turn.id for survivor in found if survivor.turn is not None]
        await self.store.open([survivor.record.id for survivor in found], turns)
        self._parts.push_async_callback(self.store.close)
        unfinished = await self._unfinished(turns)
        self.attachments = _attachments_of(settings, self.store, self.spawner, self._environ)
        self._parts.push_async_callback(self.attachments.close)
        handouts = Handouts(settings.attachments_dir, instance)
        await asyncio.to_thread(handouts.clear, {survivor.record.id for survivor in found})
        self._chronicle = Chronicle(self.store.note)
        proofs = Proofs(self.store)
        self._parts.push_async_callback(proofs.close)
        self._own(proofs.run(), "receipts")
        leftovers = Leftovers()
        self._own(leftovers.run(), "leftovers")
        rota = Rota()
        rota.hold()  # workers that are adopted have much to tell again: those who ask come first
        around = Surroundings(
            settings=settings,
            instance=instance,
            spawner=self.spawner,
            writer=self.writer,
            rota=rota,
            marks=marks,
            epoch=time.monotonic_ns() // 1_000_000,  # the host's, which no later supervisor of its workers goes behind
            recorded=proofs.when_recorded,
            leave=leftovers.add,
            announce=self._chronicle.tell,
            handouts=handouts,
        )
        self._preparation = Preparation(settings, self.catalog, ports, self._environ)
        self.table = ChannelTable(
            around,
            self._preparation,
            ports,
        )
        self.sessions = Sessions(settings, self.table, StoreArchive(self.store, settings))
        adopted, asked = self._adopt(found, {row.turn for row in unfinished})
        discarded = await self.spawner.discard()
        cleared = await asyncio.to_thread(self._clear, frozenset(adopted))
        await self.attachments.open()  # now: what begins to read has a folder that must not be cleared
        self._own(_stay_marked(marks), "mark of life")
        self.drain = Drain(self.table)
        self._parts.push_async_callback(self.drain.close)
        self._monitor = Monitor()
        self._runner = runner = make_runner(
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
                drain=self.drain,
                unfinished=[(row, asked.get(row.turn)) for row in unfinished],
            ),
            close_seconds=HTTP_CLOSE_SECONDS,
        )
        await runner.setup()
        self._parts.push_async_callback(runner.cleanup)
        for listener in listeners:
            await Site(runner, listener).start()
        rota.release()
        self._leaves_workers = False
        self._own(self._prune_often(), "log pruning")
        log.info(
            "server.ready",
            pid=os.getpid(),
            addresses=[url_of(listener) for listener in listeners],
            property=str(settings.property_file),
            state_dir=str(settings.state_dir),
            containment=self.spawner.hello["containment"],
            controllers=self.spawner.hello["controllers"],
            spawner_pid=self.spawner.hello["pid"],
            adopted_channels=len(adopted),
            ended_channels=discarded,
            cleared_folders=cleared,
        )
        for note in self.spawner.hello["notes"]:
            log.info("containment.note", note=note)
        for note in self.spawner.hello["isolation"]["notes"]:
            log.info("isolation.note", note=note)

    def renew(self) -> None:
        """Take note of settings and environment that have changed, of the keys and the graphs; log what is wrong."""
        self._preparation.renew()
        self._credentials.look()
        for name in self._selectable():
            with _told():
                self.catalog.select(name)

    def _selectable(self) -> list[str]:
        names: list[str] = []
        with _told():
            names += [graph.name for graph in self.catalog.graphs() if graph.name]
        return names

    async def stop(self) -> None:
        """Refuse new starts, stop every channel in parallel, then all parts. Bounded by the stop grace and a second."""
        began = time.monotonic()
        count = len(self.table.all())
        self.sessions.close()
        await self.table.shutdown()
        await self.sessions.drain(SESSIONS_SECONDS)
        await self.close()
        log.info("server.stopped", channels=count, seconds=round(time.monotonic() - began, 3))

    async def leave(self, hurry: asyncio.Event) -> None:
        """Leave clients and workers to a successor: `leave_seconds` for the answers that are owed, then all parts.

        As soon as `hurry` is set no answer is waited for; the workers stay.
        """
        began = time.monotonic()
        cut = await depart(self._runner, self.settings.leave_seconds, hurry)
        self._leaves_workers = True
        await self.sessions.leave()
        await self.table.leave()
        await self.close()
        log.info("server.left", channels=len(self.table.all()), cut=cut, seconds=round(time.monotonic() - began, 3))

    async def _part_with_spawner(self) -> None:
        await (self.spawner.leave() if self._leaves_workers else self.spawner.close())

    async def close(self) -> None:
        """Let go of everything, also after a start that failed half-way."""
        await self._parts.aclose()

    async def _unfinished(self, turns: Collection[str]) -> list[ResponseRow]:
        """The kept answers of these turns; none while the store cannot tell, which is no reason not to serve."""
        try:
            return await self.store.unfinished_responses(turns)
        except StoreError as error:
            log.warning("responses.unread", error=str(error))
            return []

    def _survivors(self, instance: str, died_at: float) -> list[Survivor]:
        """The channels of an earlier server to go on with. Blocks."""
        boot_id, inherited = self.spawner.hello["boot_id"], dict(self.spawner.inherited)
        return list(survivors(self.settings.state_dir, instance, boot_id, inherited, died_at))

    def _adopt(self, found: Sequence[Survivor], read: Collection[str]) -> tuple[list[str], dict[str, Turn]]:
        """Go on with them; the ids of those that can be, and of their turns (by id) those that are to be `read`.

        Without an await, so that nothing they say is missed.
        """
        adopted, asked = [], {}
        for survivor in found:
            channel = self.table.adopt(survivor)
            if channel is not None:
                adopted.append(channel.id)
                if survivor.turn is not None or not survivor.ended:
                    # One that has ended repeats nothing: what the earlier server had heard of its turn is lost.
                    is_read = survivor.turn is not None and survivor.turn.id in read and not survivor.ended
                    turn = self.sessions.adopt(channel, survivor.turn, read=is_read)
                    if turn is not None and is_read:
                        asked[turn.id] = turn
        return adopted, asked

    def _clear(self, but: Collection[str]) -> int:
        """Remove what is left of channels that are not gone on with. Blocks."""
        return clear_bundles(self.settings.state_dir, self.settings.log_path, but)

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Have something done in the background until the end."""
        self._parts.push_async_callback(_cancelled, asyncio.create_task(work, name=name))

    def details(self) -> dict[str, Any]:
        """What ``/health?details=1`` shows."""
        return {
            "containment": self.spawner.hello["containment"],
            "controllers": self.spawner.hello["controllers"],
            "draining": self.drain.is_on,
            "notes": self.spawner.hello["notes"],
            "pid": os.getpid(),
            "isolation": {"default": self.settings.isolation, **self.spawner.hello["isolation"]},
            "spawner": "attached" if self.spawner.attached else "lost",
            "spawner_pid": self.spawner.hello["pid"],
            "store": self.store.details(),
            "workers": len(self.table.all()),
            "workers_max": self.settings.workers_max,
        }

    def status(self) -> str:
        """One line for ``systemctl status``."""
        return f"channels: {len(self.table.all())}, spawner: {'attached' if self.spawner.attached else 'lost'}"

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
    secret = settings.jwt_secret.get_secret_value()
    return Tokens(secret, lambda: Bounds(settings.jwt_turns_per_minute, settings.jwt_channels))


def _hold(state_dir: Path) -> int:
    """The descriptor of the lock that only one control server has; it falls with its holder."""
    lock = os.open(state_dir / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StateFolderHeldError(f"another server works with {state_dir}") from error
    return lock


async def _stay_marked(marks: Marks) -> None:
    """Leave a mark of when we lived last: how long there was none of us counts for leases."""
    while True:
        marks.live()
        await asyncio.sleep(ALIVE_SECONDS)


@contextmanager
def _told() -> Iterator[None]:
    """Log what is wrong with a graph; requests for it are refused likewise, until it is mended."""
    try:
        yield
    except Refusal as refusal:
        log.warning("reload.graph_refused", cause=refusal.cause, detail=refusal.detail)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
