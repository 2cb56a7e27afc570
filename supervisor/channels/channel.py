"""One channel: its lifecycle, its lease, its process, its pipes. The only owner of all of them.

Whatever happens (a frame, an exit, a request) is put into the inbox; one task takes it out, asks the table of
`lifecycle` and carries out the row. Nobody else changes the state.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from supervisor.causes import EXPLANATIONS, Cause, Refusal
from supervisor.channels import foreign_commands
from supervisor.channels.asking import Asking
from supervisor.channels.commands import Commands
from supervisor.channels.confinement import isolated
from supervisor.channels.ending import Ending, Findings
from supervisor.channels.feed import Feed
from supervisor.channels.hearing import Hearing
from supervisor.channels.keeping import Keeping
from supervisor.channels.lease_watch import LeaseWatch
from supervisor.channels.lifecycle import Action, Event, State, transition
from supervisor.channels.preparation import Plan
from supervisor.channels.record import ending_of
from supervisor.channels.requests import StartRequest
from supervisor.channels.surroundings import Surroundings
from supervisor.channels.waiters import Waiters
from supervisor.processes.adopt import Survivor
from supervisor.processes.link import Link, LinkFullError
from supervisor.processes.logs import Throttled
from worker.frames import Down
from worker.spawn import Receipt

log = structlog.get_logger("supervisor.channel")

PROOF_SECONDS: Final = 8.0  # the spawner complains of what outlives SIGKILL before that
# A worker of ours is asked by a frame first; SIGTERM follows when this part of the grace has gone by without its end.
FRAME_SHARE: Final = 0.5


class Channel:
    """One session. `run` is its life, from the claim until nothing is left."""

    def __init__(
        self,
        request: StartRequest,
        plan: Plan,
        channel_id: str,
        files: tuple[Path, Path],
        timeout: float,
        surroundings: Surroundings,
        released: Callable[["Channel"], None],
    ) -> None:
        """`files` are the paths of its log and of its property file; `released` frees its name and slot."""
        self.name, self.owner = request.name, request.owner
        self.graph_name = request.graph_name
        self.user, self.session, self.source = request.user, request.session, request.source
        self.on_demand, self.shared = request.on_demand, request.shared
        self.id = channel_id
        self.state = State.STARTING
        self.pid: int | None = None
        self.created_at = self.ready_at = time.time()
        self.claimed_at = time.monotonic()
        self._leased = LeaseWatch(timeout, surroundings.marks, lambda: self.post(Event.LAPSE))
        self.lease = self._leased.lease
        self.ending: Ending | None = None
        self.port = plan.port
        self.foreign, self.limits = plan.foreign, plan.limits
        self.isolation = isolated(plan.isolation.level, surroundings.spawner.hello)
        self._files = surroundings.files_of(channel_id, plan, *files)
        self._plan = plan
        self._around = surroundings
        self._released = released
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[tuple[Event, Cause | None, str]] = asyncio.Queue()
        self._found = Findings()
        self._waiters = Waiters()
        self.started, self.gone = self._waiters.started, self._waiters.gone
        self.when_lost, self.forget = self._waiters.when_lost, self._waiters.forget
        self._log = log.bind(channel=self.name, id=self.id)
        self.feed = Feed(channel_id, surroundings.settings.events_kept)
        self._hearing = Hearing(
            self.feed,
            self._found,
            Throttled(self._log),  # what the worker's frames make us log
            ready=self._on_ready,
            reply=lambda frame: self._commands.answered(frame),  # noqa: PLW0108 - there are none yet
            broken=lambda reason: self.post(Event.BROKEN, detail=reason),
        )
        self._link = Link(self._hearing.on_frame, self._hearing.on_bad, surroundings.rota)
        self._commands = Commands(self._link.send)
        self.asking = Asking(self._link, self._hearing, self._commands, self._files, self)
        self._timers: list[asyncio.TimerHandle] = []
        self._failed = False
        self._keeping = Keeping(self, self._files, surroundings, lambda: self._leased.slot, self._log)
        self.note_turn = self._keeping.note_turn

    @property
    def folder(self) -> Path:
        """The channel's folder; it goes with the channel."""
        return self._files.folder

    @property
    def log_file(self) -> Path:
        """Where the worker's output goes, unless it goes to our own; it outlives the channel."""
        return self._files.log_file

    @property
    def health(self) -> str:
        """One of "ok", "slow" and "stuck" (`health.verdict`); a foreign worker that does not beat counts as ok."""
        if self.state is not State.RUNNING or self.foreign:
            return "ok"
        return self._hearing.health(self._around.settings.beat_seconds)

    # ------------------------------------------------------------------ what others ask

    def ping(self) -> None:
        """Keep the lease; raises Refusal(CHANNEL_UNKNOWN) when it is too late. The hottest path there is."""
        row = transition(self.state, Event.PING)
        if row.refusal is not None:
            raise Refusal(row.refusal)
        if row.actions:
            self._leased.ping()
        else:
            self.lease.last_ping = time.monotonic()

    def post(self, event: Event, cause: Cause | None = None, detail: str = "") -> None:
        """Tell the channel of an event; its task takes it up."""
        self._inbox.put_nowait((event, cause, detail))

    async def command(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Have the worker's graph handle a command; its reply frame, empty if it is foreign and took the command.

        Raises Refusal(COMMAND_UNDELIVERED).
        """
        if self.foreign:
            await foreign_commands.deliver(self.port, payload)
            return {}
        return await self._commands.ask(payload)

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The graph's nodes as their worker tells of them: name, add-on, the turns they answer, public properties."""
        return list(self._hearing.nodes.values())

    @property
    def reason(self) -> tuple[Cause, str] | None:
        """Why it ends, as far as that is known; None: it does not."""
        cause = self._found.cause
        return None if cause is None else (cause, self._found.detail or EXPLANATIONS[cause].message)

    def fail(self, refusal: Refusal) -> None:
        """Let go of everything and answer whoever waits, when its life could not be lived to its end."""
        self._failed = True
        self.let_go()
        self._waiters.refuse(refusal)
        self._lose(refusal)
        self._tell_end(Ending(refusal.cause, refusal.detail, None, None))

    def leave(self) -> None:
        """Let go of the worker, as it is, for a successor: nobody is told of an end."""
        self._files.leave()
        self.let_go()
        self._waiters.refuse(Refusal(Cause.SHUTTING_DOWN))

    # ------------------------------------------------------------------ its life

    def adopt(self, survivor: Survivor) -> None:
        """Before `run`: take over the worker of an earlier supervisor. What it says is heard soon, not before."""
        record = survivor.record
        self.pid = record.pid
        self._keeping.born(record.start_time)
        self.created_at, self.ready_at = record.created_at, record.ready_at
        self.claimed_at = self.claimed_at if record.claimed is None else record.claimed
        self._log.info("channel.adopted", graph=self.graph_name, pid=self.pid, ended=survivor.ended)
        self.announce("adopted", created_at=self.created_at, ready_at=self.ready_at, pid=self.pid)
        self._waiters.tell_started()
        self.post(Event.ADOPTED)
        if (reason := ending_of(survivor)) is not None:
            self.post(Event.STOP, *reason)
        try:
            self._hearing.adopt(record.nodes, ended=survivor.ended)
            self._link.adopt(self.folder, epoch=self._around.epoch, ended=survivor.ended)
            self._files.collect(self._around, self.name)
        except OSError as error:
            self.post(Event.KILL, Cause.ADOPTION_FAILED, f"its folder cannot be used: {error}")
        if not survivor.ended:
            paused = self._around.settings.lease_downtime == "paused"
            self._leased.resume(record.slot, survivor.died_at, paused=paused)
            self._keeping.adopted(record.slot)
        self._around.spawner.adopt(self.id, self)

    async def run(self) -> None:
        """Spawn, unless a worker was adopted; then live by the table until the channel is gone."""
        if self.pid is None:
            self._timers.append(
                self._loop.call_later(self._around.settings.worker_start_timeout_seconds, self.post, Event.TIMEOUT)
            )
            self._spawn()
        while self.state is not State.GONE:
            # Unbounded by design: a session lasts as long as its client pings; every phase that must end has a timer.
            event, cause, detail = await self._inbox.get()
            if event is Event.LAPSE and time.monotonic() < self.lease.deadline:
                continue  # a ping came between the timer and us
            row = transition(self.state, event)
            if row.state is not self.state or row.actions:
                self._found.put(row.cause or cause, detail)
                if row.state is State.STOPPING and self.state is not State.STOPPING:
                    self._cancel_timers()
                    self._watch_stop(self._around.settings.worker_stop_grace_seconds + PROOF_SECONDS)
                self.state = row.state
                for action in row.actions:
                    self._actions[action](self)
        await self._clear()

    def _spawn(self) -> None:
        plan = self._plan
        try:
            self._files.create(plan.property_file)
            self._link.open(self.folder)
            self._files.collect(self._around, self.name)
            request, config = plan.request_for(self.id, self._files), plan.config_for(self.id, self.folder)
            self._around.spawner.spawn(request, config, self)
        except (OSError, ValueError, LinkFullError) as error:
            self.post(Event.SPAWN_FAILED, detail=str(error))
        # The document and the environment may hold secrets; a session is long.
        self._plan = Plan(foreign=plan.foreign, environment={}, limits=plan.limits, warnings=())

    # ------------------------------------------------------------------ actions of the table

    def _refresh(self) -> None:
        self._leased.ping()

    def _begin_lease(self) -> None:
        self._cancel_timers()
        self._hearing.last_sign = time.monotonic()
        self.ready_at = time.time()
        self._leased.begin()
        self._keeping.put()

    def _answer_start(self) -> None:
        self._log.info("channel.ready", graph=self.graph_name, pid=self.pid, ms=self._age_ms())
        self.announce("ready", pid=self.pid)
        self._waiters.tell_started()

    def _note_exit(self) -> None:
        self._link.drain()  # its last words may say more than its status
        self._found.judge()
        self._lose()

    def _begin_stop(self) -> None:
        cause = self._found.cause
        late_ms = round((time.monotonic() - self.lease.deadline) * 1000, 3) if cause is Cause.LAPSED else None
        self._keeping.put_ending()
        self._log.info("channel.stopping", cause=cause, late_ms=late_ms)
        self.announce("stopping", cause=cause)
        grace = self._around.settings.worker_stop_grace_seconds
        term_after = 0.0 if self.foreign else grace * FRAME_SHARE
        if not self.foreign:
            # A worker that reads nothing is told by SIGTERM.
            with contextlib.suppress(LinkFullError, OSError):
                self._link.send({"t": Down.STOP.value, "grace": term_after})
        self._around.spawner.stop(self.id, term_after=term_after, kill_after=grace)

    def _kill_tree(self) -> None:
        self._keeping.put_ending()
        self._around.spawner.kill(self.id)

    def _fail_stops(self) -> None:
        self._waiters.tell_stop_failed(Refusal(Cause.STOP_FAILED, self._found.detail))

    def _finish(self) -> None:
        self.ending = self._found.ending()
        self._lose()

    def _lose(self, refusal: Refusal | None = None) -> None:
        known = refusal or self._found.ending()
        self._waiters.tell_lost((known.cause, known.detail))

    _actions: Final = {
        Action.REFRESH: _refresh,
        Action.BEGIN_LEASE: _begin_lease,
        Action.ANSWER_START: _answer_start,
        Action.NOTE_EXIT: _note_exit,
        Action.BEGIN_STOP: _begin_stop,
        Action.KILL_TREE: _kill_tree,
        Action.FAIL_STOPS: _fail_stops,
        Action.FINISH: _finish,
    }

    async def _clear(self) -> None:
        """Remove all that was the channel's, then free its name and answer."""
        self.let_go()
        try:
            await self._files.remove()
        except OSError as error:
            self._log.warning("channel.folder_left", folder=str(self.folder), error=str(error))
            self._around.leave(self._files.remove_all)
        await asyncio.sleep(0)  # a turn that was lost with the worker is told of before the end of the channel
        self._released(self)
        ending = self.ending
        if ending is None:
            raise RuntimeError("a channel was cleared before it had ended")
        self._log.info("channel.gone", graph=self.graph_name, age_ms=self._age_ms(), **ending.as_fields())
        self._tell_end(ending)
        self._keeping.forget_when_recorded()
        self._waiters.tell_gone(Refusal(ending.cause, ending.detail))

    def _tell_end(self, ending: Ending) -> None:
        self.announce("gone", **self.lease.told(time.monotonic(), time.time()), **ending.as_fields())
        self.feed.publish("ended", ending.as_fields())
        self.feed.close()

    def let_go(self) -> None:
        """Hear nothing more of the worker, and end nothing."""
        self._cancel_timers()
        self._leased.close()
        self._link.close()
        self._files.close()
        self._commands.close()

    # ------------------------------------------------------------------ what the process says

    def on_spawned(self, pid: int, start_time: int) -> None:
        """The process exists."""
        self.pid = pid
        self._keeping.born(start_time)
        if self._hearing.says_ready:  # over its pipe, before the spawner told us of it
            self.post(Event.READY)
        if self.foreign and self.state is State.STARTING:
            self._timers.append(
                self._loop.call_later(self._around.settings.worker_settle_seconds, self.post, Event.READY)
            )

    def on_spawn_failed(self, error: str) -> None:
        """There is no process."""
        self.post(Event.SPAWN_FAILED, detail=error)

    def on_exit(self, status: int, *, oom: bool) -> None:
        """The worker ended; the spawner clears up what it left."""
        self._found.status, self._found.oom = status, oom
        self.post(Event.EXIT, detail="")

    def on_gone(self, receipt: Receipt) -> None:
        """Nothing is left."""
        self._found.receipt = receipt
        self.post(Event.GONE)
        if self._failed:  # nobody tells of its end any more
            self._keeping.forget()

    def on_unkillable(self, pids: list[int]) -> None:
        """Some of the tree outlive SIGKILL."""
        self._log.error("channel.unkillable", pids=pids)
        self._found.detail = f"processes {pids} outlive SIGKILL"
        self.post(Event.UNKILLABLE)

    def on_spawner_ending(self) -> None:
        """The spawner was told to end; the worker is, by now."""
        self.post(Event.STOP, Cause.SPAWNER_LOST, "the spawner was told to end")

    def on_spawner_lost(self) -> None:
        """The spawner died; its workers went with it."""
        self.post(Event.LOST)

    def _on_ready(self) -> None:
        if self.pid is not None:
            self.post(Event.READY)

    # ------------------------------------------------------------------ timers

    def _watch_stop(self, seconds: float) -> None:
        """A stop that is not proven in time is told as failed, and the kill is asked for again, until it is proven."""
        self._timers = [self._loop.call_later(seconds, self._insist)]

    def _insist(self) -> None:
        self._found.detail = self._found.detail or "there is no proof yet that nothing is left"
        self.post(Event.UNKILLABLE)
        self._around.spawner.kill(self.id)
        self._watch_stop(PROOF_SECONDS)

    def announce(self, kind: str, **fields: Any) -> None:
        """Tell of an event in this channel's life."""
        about = {"channel": self.name, "id": self.id, "graph": self.graph_name, "user": self.user}
        self._around.announce(kind, {**about, "session": self.session, "source": self.source, **fields})

    def _cancel_timers(self) -> None:
        while self._timers:
            self._timers.pop().cancel()

    def _age_ms(self) -> float:
        return round((time.monotonic() - self.claimed_at) * 1000, 1)
