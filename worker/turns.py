"""The turns that come from outside, one at a time: their handlers, their events, and exactly one ending for each.

Each turn has a task of its own, apart from the nodes' queues, so that messages, commands and updates are never kept
waiting by a long answer.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from worker.agent import Agent
from worker.conversation import Passage
from worker.events import ResponseError, as_fields
from worker.frames import Frame, FrameError, Up
from worker.graph import Graph
from worker.memory import Memory
from worker.pipe import Pipe
from worker.texts import said
from worker.turn import RequestError, Turn
from worker.voice import Voice, perform

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

MOST_WAITING: Final = 8
MOST_ID: Final = 128  # characters of a turn's id
MOST_FILE: Final = 64 * 1024 * 1024  # bytes of a request that comes as a file
FILE_SECONDS: Final = 30.0

CANCELLED: Final = "turn_cancelled"
AGENT_ERROR: Final = "agent_error"


class NotHandledError(Exception):
    """No node of the graph answers turns of this kind."""


class BusyError(Exception):
    """Too many turns wait already."""


# Others are AGENT_ERROR.
CAUSES: Final[Mapping[type[BaseException], str]] = {
    ResponseError: "response_invalid",
    NotHandledError: "not_implemented",
}


@dataclass(slots=True, eq=False)
class Job:
    """A turn on its way through the worker."""

    frame: Frame
    voice: Voice
    began: float = field(default_factory=time.monotonic)
    task: asyncio.Task[None] | None = None  # once it is its turn
    turn: Turn | None = None  # once its request is read
    cancelled: str = ""  # why
    ended: bool = False


class Turns:
    """Takes ``turn`` and ``cancel`` frames. `folder` is the channel's: requests too long for a frame lie in it."""

    def __init__(self, pipe: Pipe, folder: str) -> None:
        self._pipe = pipe
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._graph: Graph | None = None
        self._closed = ""  # why
        self._memory = Memory()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None

    @property
    def current(self) -> str | None:
        """The turn that runs, else the next one."""
        job = self._running or next(iter(self._waiting), None)
        return None if job is None else job.voice.turn

    def open(self, graph: Graph) -> None:
        """The graph has started: turns may begin, those that came before first."""
        self._graph = graph
        self._next()

    async def close(self, seconds: float) -> None:
        """Cancel all turns and see them end; one whose handler takes longer is ended without it."""
        self._closed = "the worker stops"
        for waiting in tuple(self._waiting):
            self._cancel(waiting, self._closed)
        if (job := self._running) is None or job.task is None:
            return
        self._cancel(job, self._closed)
        await asyncio.wait({job.task}, timeout=seconds)
        if not job.ended:
            log.warning("turn.stop_late", turn=job.voice.turn, seconds=seconds)
            self._fail(job, asyncio.CancelledError())

    def begin(self, frame: Frame) -> None:
        """Begin a turn now, or when those before it have ended."""
        name = frame.get("turn")
        if not isinstance(name, str) or not 0 < len(name) <= MOST_ID:
            log.warning("turn.bad_frame", turn=repr(name)[:MOST_ID])
        elif self._find(name) is not None:
            log.warning("turn.repeated", turn=name)
        else:
            job = Job(frame, Voice(name, self._pipe.send))
            if len(self._waiting) >= MOST_WAITING:
                self._drop(job, BusyError(f"{MOST_WAITING} turns wait already, which is the most"))
                return
            self._waiting.append(job)
            if self._closed:
                self._cancel(job, self._closed)
            self._next()

    def cancel(self, frame: Frame) -> None:
        """Cancel a turn: at once if it waits, else at its handler's current await. Others are none of ours."""
        job = self._find(frame.get("turn"))
        if job is not None and not job.ended:
            self._cancel(job, "cancelled")

    def _find(self, name: Any) -> Job | None:
        jobs = (*self._waiting, *([self._running] if self._running else []))
        return next((job for job in jobs if job.voice.turn == name), None)

    def _cancel(self, job: Job, reason: str) -> None:
        job.cancelled = reason
        if job.task is not None:
            job.voice.silence(asyncio.CancelledError)  # for a handler that goes on all the same
            job.task.cancel()
        else:
            self._waiting.remove(job)
            self._drop(job, asyncio.CancelledError())

    def _next(self) -> None:
        if self._graph is not None and self._running is None and self._waiting:
            job = self._running = self._waiting.popleft()
            job.began = time.monotonic()
            job.task = self._loop.create_task(self._run(job, self._graph), name=f"turn {job.voice.turn}")
            job.task.add_done_callback(lambda _: self._over(job))

    def _over(self, job: Job) -> None:
        if not job.ended:  # cancelled before its first step
            self._drop(job, asyncio.CancelledError())
        self._running = None
        self._next()

    async def _run(self, job: Job, graph: Graph) -> None:
        structlog.contextvars.bind_contextvars(turn=job.voice.turn)  # of this task: for all that is logged in it
        passage = None
        try:
            request = await self._read(job.frame)
            agent, verb = _agent(graph, job.frame.get("kind"))
            state = request.get("state")
            if isinstance(state, dict):
                self._memory.restore(state)
            emit = job.voice.emit
            job.turn = Turn(job.voice.turn, kind=verb, request=request, emit=emit, state=self._memory.value)
            if graph.passes_on_text(agent):
                passage = Passage(agent.context)
                if question := job.turn.question:
                    await passage.say(question, role="user", ended=True)
                job.voice.listen(passage.say)
            final = await perform(verb, getattr(agent, verb)(job.turn), emit)
            await self._finish(job, {"type": "final"} if final is None else as_fields(final), job.turn.state)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises, SystemExit too, ends its turn only
            self._fail(job, error)
        if passage is not None:
            await passage.say("", ended=True)

    async def _finish(self, job: Job, fields: dict[str, Any], state: Any) -> None:
        """End a turn well, when the window has room for it."""
        mark, changed = self._memory.take(state)
        try:
            await self._pipe.send(_ending(job, fields, changed))
        except FrameError as error:
            raise ResponseError(f"Final: {error}") from error
        self._memory.told(mark)
        self._end(job)

    def _fail(self, job: Job, error: BaseException) -> None:
        """End a turn badly, now: an ending does not wait for room."""
        cause = CANCELLED if job.cancelled else CAUSES.get(type(error), AGENT_ERROR)
        told = job.cancelled or said(error)
        changed = None
        if job.turn is not None:
            try:
                mark, changed = self._memory.take(job.turn.state)
                self._memory.told(mark)
            except ResponseError as unfit:
                log.warning("turn.state_lost", turn=job.voice.turn, error=str(unfit))
        if cause == AGENT_ERROR:
            log.error("turn.failed", turn=job.voice.turn, kind=type(error).__name__, error=told, exc_info=error)
        kind = "CancelledError" if job.cancelled else type(error).__name__
        fields = {"type": "error", "cause": cause, "kind": kind, "message": told}
        self._pipe.post(_ending(job, fields, changed))
        self._end(job)

    def _end(self, job: Job) -> None:
        job.ended = True
        job.voice.silence(lambda: RuntimeError(f"turn {job.voice.turn!r} has ended"))

    def _drop(self, job: Job, error: BaseException) -> None:
        """End a turn whose request nobody has read."""
        self._fail(job, error)
        if isinstance(name := job.frame.get("file"), str):
            with contextlib.suppress(OSError):
                Path(self._folder, name).unlink()

    async def _read(self, frame: Frame) -> dict[str, Any]:
        """The request of a turn; raises RequestError."""
        name = frame.get("file")
        if name is None:
            request = frame.get("request")
        else:
            try:
                async with asyncio.timeout(FILE_SECONDS):
                    request = await asyncio.to_thread(_take_file, Path(self._folder, name))
            except (OSError, ValueError, TimeoutError) as error:
                raise RequestError(f"the request's file {name!r:.100}: {said(error)}") from error
        if not isinstance(request, dict):
            raise RequestError(f"a request is an object, not {request!r:.100}")
        return request


def _ending(job: Job, fields: dict[str, Any], state: dict[str, Any] | None) -> Frame:
    frame = {"t": Up.EVENT.value, "turn": job.voice.turn, **fields}
    if state is not None:
        frame["state"] = state
    return frame | {"ms": round((time.monotonic() - job.began) * 1000, 3)}


def _agent(graph: Graph, verb: Any) -> tuple[Agent, str]:
    agent = graph.agent(verb)
    if agent is None:
        raise NotHandledError(f"no node of the graph answers turns of the kind {verb!r:.100}")
    return agent, verb


def _take_file(path: Path) -> Any:
    """The JSON of a file that is read once; raises OSError or ValueError."""
    with path.open("rb") as file:
        path.unlink()
        data = file.read(MOST_FILE + 1)
    if len(data) > MOST_FILE:
        raise ValueError(f"more than {MOST_FILE} bytes, which is the most")
    return orjson.loads(data)
