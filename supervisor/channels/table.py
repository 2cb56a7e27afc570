"""All channels: atomic claims of name and slot, limits, lookup, shutdown."""

import asyncio
import itertools
import time
from contextvars import Context
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import structlog

from supervisor.causes import Cause, Refusal
from supervisor.channels.bell import Bell
from supervisor.channels.channel import Channel
from supervisor.channels.confinement import isolated
from supervisor.channels.lease import NEVER, timeout_of
from supervisor.channels.lifecycle import Event, State
from supervisor.channels.preparation import Preparation
from supervisor.channels.record import plan_of, request_of
from supervisor.channels.requests import SEPARATOR, Owner, StartRequest, check_channel_name
from supervisor.channels.surroundings import Surroundings
from supervisor.ports import PortAllocator
from supervisor.processes.adopt import Survivor
from worker.spawn import Receipt

log = structlog.get_logger("supervisor.table")

NAME_IN_FILE: Final = 120
STOP_SLACK_SECONDS: Final = 10.0
CANCEL_SECONDS: Final = 0.2
LIVE: Final = frozenset({State.STARTING, State.RUNNING})


def file_stem(channel_name: str, channel_id: str, created_at: float) -> str:
    """The middle of a channel's file names: readable, and by the id injective (wire/ten.md section 3)."""
    readable = quote(channel_name, safe="")[:NAME_IN_FILE]
    return f"{readable}-{time.strftime('%Y%m%d_%H%M%S', time.localtime(created_at))}_{channel_id}"


def _session_of(channel: Channel) -> tuple[str, str, str | None]:
    """Which session a channel carries; one that is shared by graphs is of none of them."""
    return "" if channel.shared else channel.graph_name, channel.user, channel.session


class ChannelTable:
    """Every channel that is starting, running or stopping, by name."""

    def __init__(self, surroundings: Surroundings, preparation: Preparation, ports: PortAllocator) -> None:
        self._around = surroundings
        self._preparation = preparation
        self._ports = ports
        self._channels: dict[str, Channel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._epoch = f"{time.time_ns():x}"
        self._closing = self._leaving = False
        self.draining = False  # no channel begins, but those that are there go on
        self.freed = Bell()  # a slot is free again

    async def start(self, request: StartRequest) -> Channel:
        """Claim, spawn, and wait until the worker is ready. Raises Refusal."""
        channel = self.claim(request)
        await channel.started()
        return channel

    def claim(self, request: StartRequest) -> Channel:
        """A new channel, which has its name and its slot; whether its worker gets ready is not known yet.

        Raises Refusal. The order of the checks is wire/ten.md section 4. Nothing is awaited between looking and taking:
        of many claims at once exactly as many succeed as may.
        """
        settings = self._around.settings
        self.check_open()
        if len(self._channels) >= settings.workers_max:
            raise Refusal(Cause.WORKERS_LIMIT, f"all {settings.workers_max} worker slots are taken")
        # A name that no channel may have is none that is taken: it may be another user's whole one.
        if SEPARATOR not in request.channel_name and request.name in self._channels:
            raise Refusal(Cause.CHANNEL_EXISTS)
        self._check_owner(request.owner)
        self._check_graph_limit(request.graph_name, None)
        check_channel_name(request.channel_name)
        plan = self._preparation.prepare(request)
        try:
            self._check_graph_limit(request.graph_name, plan.max_workers)
            self._check_isolation(plan.isolation.level)
        except Refusal:
            self._ports.release(plan.port)
            raise
        channel_id = f"{self._epoch}-{next(self._numbers)}"
        stem = file_stem(request.name, f"{self._around.instance}-{channel_id}", time.time())
        files = (settings.log_path / f"app-{stem}.log", settings.log_path / f"property-{stem}.json")
        timeout = timeout_of(request.timeout, float(settings.worker_quit_timeout_seconds))
        channel = Channel(request, plan, channel_id, files, timeout, self._around, self._release)
        self._channels[channel.name] = channel
        channel.announce("claimed", created_at=channel.created_at)
        for warning in plan.warnings:
            log.warning("channel.graph_warning", channel=channel.name, warning=warning)
        self._begin(channel)
        return channel

    def adopt(self, survivor: Survivor) -> Channel | None:
        """Go on with a channel of an earlier supervisor; None when it cannot be, for another one has its name."""
        record = survivor.record
        if record.channel in self._channels and not survivor.ended:
            log.error("channel.not_adopted", channel=record.channel, id=record.id, reason="its name is taken")
            return None
        self._ports.hold(record.port)
        channel = Channel(
            request_of(record),
            plan_of(record),
            record.id,
            (Path(record.log_file), Path(record.property_file)),
            NEVER if record.timeout is None else record.timeout,
            self._around,
            self._release,
        )
        self._channels.setdefault(channel.name, channel)
        channel.adopt(survivor)
        self._begin(channel)
        return channel

    def _begin(self, channel: Channel) -> None:
        # In a context of its own: what it logs is not the start request's.
        task = asyncio.create_task(self._live(channel), name=f"channel {channel.id}", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def check_open(self) -> None:
        """Raise Refusal(SHUTTING_DOWN | DRAINING) when no channel begins at present."""
        if self._closing:
            raise Refusal(Cause.SHUTTING_DOWN)
        if self.draining:
            raise Refusal(Cause.DRAINING)

    def ping(self, name: str) -> None:
        """Keep a channel's lease; raises Refusal(CHANNEL_UNKNOWN)."""
        channel = self._channels.get(name)
        if channel is None:
            raise Refusal(Cause.CHANNEL_UNKNOWN)
        channel.ping()

    async def stop(self, name: str, *, cause: Cause = Cause.STOPPED, kill: bool = False) -> Receipt | None:
        """Stop a channel and wait until nothing of it is left; everybody who asks before that gets the same receipt.

        Raises Refusal(CHANNEL_UNKNOWN), or Refusal(STOP_FAILED) when something outlives SIGKILL.
        """
        channel = self._channels.get(name)
        if channel is None:
            raise Refusal(Cause.CHANNEL_UNKNOWN)
        return await self.stop_this(channel, cause=cause, kill=kill)

    async def stop_this(self, channel: Channel, *, cause: Cause, kill: bool = False) -> Receipt | None:
        """Stop this very channel, whatever bears its name now; like `stop`. Raises Refusal(STOP_FAILED)."""
        channel.post(Event.KILL if kill else Event.STOP, cause, "")
        try:
            async with asyncio.timeout(self._around.settings.worker_stop_grace_seconds + STOP_SLACK_SECONDS):
                await channel.gone()
        except TimeoutError as error:
            raise Refusal(Cause.STOP_FAILED) from error
        return channel.ending.receipt if channel.ending is not None else None

    async def command(self, name: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Have a running channel's worker handle a command; its reply.

        Raises Refusal(CHANNEL_UNKNOWN | COMMAND_UNDELIVERED).
        """
        channel = self._channels.get(name)
        if channel is None or channel.state is not State.RUNNING:
            raise Refusal(Cause.CHANNEL_UNKNOWN)
        return await channel.command(payload)

    def get(self, name: str) -> Channel | None:
        """The channel of this name, whatever its state."""
        return self._channels.get(name)

    def of_session(self, graph: str, user: str, session: str) -> Channel | None:
        """The live channel of this session, whoever started it; '' is the graph of one that is shared by graphs."""
        wanted = (graph, user, session)
        return next((one for one in self._channels.values() if one.state in LIVE and _session_of(one) == wanted), None)

    def ending_of_session(self, graph: str, user: str, session: str) -> Channel | None:
        """The channel that a session had last and that is not gone so far, by whatever name."""
        wanted = (graph, user, session)
        ending = (one for one in self._channels.values() if one.state not in LIVE)
        return next((one for one in ending if _session_of(one) == wanted), None)

    def running(self) -> list[Channel]:
        """The channels whose workers are ready."""
        return [channel for channel in self._channels.values() if channel.state is State.RUNNING]

    def all(self) -> list[Channel]:
        """Every channel that has a slot."""
        return list(self._channels.values())

    async def shutdown(self) -> None:
        """Refuse new starts and stop all channels in parallel; bounded by grace and a little."""
        self._closing = True
        for channel in self.all():
            channel.post(Event.STOP, Cause.SERVER_STOPPED, "")
        if self._tasks:
            grace = self._around.settings.worker_stop_grace_seconds
            _, late = await asyncio.wait(self._tasks, timeout=grace + 0.5)
            for task in late:
                log.error("channel.stop_late", task=task.get_name())
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=CANCEL_SECONDS)

    async def leave(self) -> None:
        """Leave every worker as it is to a successor, and tell nobody of an end."""
        self._closing = self._leaving = True
        for channel in self.all():
            channel.leave()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CANCEL_SECONDS)

    async def _live(self, channel: Channel) -> None:
        try:
            await channel.run()
        except asyncio.CancelledError:
            if self._leaving:
                raise
            channel.fail(Refusal(Cause.STOP_FAILED, "the server ended before there was proof that nothing is left"))
            self._release(channel)
            raise
        except Exception:
            # A fault of ours must not leave a worker behind or a name taken for ever.
            self._around.spawner.kill(channel.id)
            channel.fail(Refusal(Cause.INTERNAL))
            self._release(channel)
            log.exception("channel.fault", channel=channel.name, id=channel.id)

    def _check_owner(self, owner: Owner) -> None:
        if owner.channels is not None:
            count = sum(channel.owner.key == owner.key for channel in self._channels.values())
            if count >= owner.channels:
                raise Refusal(Cause.KEY_LIMIT, f"key {owner.key} may have {owner.channels} channels at once")

    def _check_graph_limit(self, graph_name: str, most: int | None) -> None:
        limits = [
            limit for pattern, limit in self._around.settings.graph_limits.items() if fnmatchcase(graph_name, pattern)
        ]
        if most is not None:
            limits.append(most)
        if not limits:
            return
        count = sum(channel.graph_name == graph_name for channel in self._channels.values())
        if count >= min(limits):
            raise Refusal(Cause.GRAPH_LIMIT, f"graph {graph_name!r} may have {min(limits)} workers at once")

    def _check_isolation(self, level: str) -> None:
        if refused := isolated(level, self._around.spawner.hello).refused:
            raise Refusal(Cause.ISOLATION_UNAVAILABLE, f"isolation {level!r}: {refused}")

    def _release(self, channel: Channel) -> None:
        """Free the name and the slot, of this very channel only: a newer one may bear its name already."""
        self._ports.release(channel.port)
        if self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
        self.freed.ring()
