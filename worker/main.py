"""One worker's life: lock, pipes, graph, READY, beats, and an orderly end. The zygote's child calls `run`."""

import asyncio
import fcntl
import io
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import structlog

from worker import rehearsal
from worker.beat import Beat
from worker.frames import Down, Frame, FrameError, Up
from worker.graph import FAILURES, CommandError, Graph, UpdateError, describe
from worker.pipe import Pipe
from worker.plan import StartError, make_plan
from worker.registry import Registry, preload_addons
from worker.spawn import DOWN_FIFO, LOCK_FILE, UP_FIFO
from worker.turns import Turns

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

STOPPED: Final = 0
FAILED: Final = 1
NOT_STARTED: Final = 3

GRACE_SECONDS: Final = 2.0  # of a stop that names none, as SIGTERM
TURNS_SHARE: Final = 0.5  # of the grace: for handlers that were cancelled
FRAMES_SHARE: Final = 0.1  # of the grace: for the last frames; what is left is the nodes'
DRAIN_SECONDS: Final = 2.0  # for the last frames of a start that failed
REQUESTS_AT_ONCE: Final = 64  # commands and updates


class WorkerConfig(NamedTuple):
    """What the supervisor hands to a worker.

    `graph` is the effective document with `graph_name` in it, `lifeline` a descriptor that ends with the spawner.
    """

    id: str
    channel: str
    folder: str
    graph: Mapping[str, Any]
    graph_name: str
    unknown_addons: str = "error"  # or "skip"
    beat_seconds: float = 2.0
    start_seconds: float = 10.0
    lifeline: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WorkerConfig":
        """The configuration of a message; unknown keys are ignored, a missing one raises TypeError."""
        return cls(**{name: values[name] for name in cls._fields if name in values})


def run(config: dict[str, Any], registry: Registry | None = None) -> int:
    """Be the worker of one channel until it is stopped; the exit status: 0 stopped, 1 failed, 3 not started.

    The process is set up: own session, the channel's folder as working folder, output to FIFOs. The caller ends it
    with `os._exit`, since a node that outlived its grace may still hold a task or a thread. Raises OSError when the
    lock is another's or the FIFOs are not there.
    """
    settings = WorkerConfig.from_dict(config)
    _take_lock(f"{settings.folder}/{LOCK_FILE}")
    for ignored in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_IGN)
    if not structlog.is_configured():
        _configure_output()
    structlog.contextvars.bind_contextvars(channel=settings.channel)
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_work(settings, registry or Registry()))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def preload() -> None:
    """Do in the zygote, once, what all its workers would do: import add-ons, set up logging, and rehearse a life."""
    preload_addons()
    _configure_output()
    rehearse()


def rehearse() -> None:
    """Live the life of a small graph in a folder of its own, from open pipes over one turn to the last frame.

    In the zygote it leaves behind what the interpreter makes when code runs for the first time, for all workers to
    share. In a spare it has the kernel copy the pages that a worker writes before anybody waits for it. It starts no
    thread and leaves no loop.
    """
    with tempfile.TemporaryDirectory(prefix="agentd-preload-") as folder:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(_first_life(folder))
        finally:
            loop.close()


async def _first_life(folder: str) -> None:
    for fifo in (DOWN_FIFO, UP_FIFO):
        os.mkfifo(f"{folder}/{fifo}", 0o600)
    down, up = (os.open(f"{folder}/{fifo}", os.O_RDWR | os.O_NONBLOCK) for fifo in (DOWN_FIFO, UP_FIFO))
    loop = asyncio.get_running_loop()
    prompter = rehearsal.Prompter(down, up)
    prompter.begin()
    loop.add_reader(up, prompter.hear)
    name = rehearsal.NAME
    try:
        await Worker(
            WorkerConfig(id=name, channel=name, folder=folder, graph=rehearsal.GRAPH, graph_name=name),
            rehearsal.registry(),
        ).run()
    finally:
        loop.remove_reader(up)
        os.close(down)
        os.close(up)


def _take_lock(path: str) -> None:
    """Take the lock that proves who this process is. It stays until the end of the process, and with it the descriptor;
    it would also be lost if any other descriptor of this file were closed in this process.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _configure_output() -> None:
    """Lines leave at once, since both streams are pipes; events are JSON lines on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


async def _work(config: WorkerConfig, registry: Registry) -> int:
    return await Worker(config, registry).run()


class Worker:
    """The worker of one channel; made and run inside its event loop."""

    def __init__(self, config: WorkerConfig, registry: Registry) -> None:
        self._config = config
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._stop: asyncio.Future[float] = self._loop.create_future()  # its result is the grace in seconds
        self._pipe = Pipe(config.folder, self._on_frame)
        self._graph: Graph | None = None
        self._is_ready = False
        self._turns = Turns(self._pipe, config.folder)
        self._beat = Beat(self._pipe, config.beat_seconds, lambda: self._turns.current)
        self._requests: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """From the open pipes to the last frame; the exit status."""
        self._loop.add_signal_handler(signal.SIGTERM, self._request_stop, None)
        self._pipe.open()
        if self._config.lifeline is not None:
            self._loop.add_reader(self._config.lifeline, self._check_lifeline, self._config.lifeline)
        try:
            await self._start()
        except StartError as error:
            log.exception("worker.not_started", cause=error.cause, detail=error.detail)
            bye = {"cause": error.cause, "detail": error.detail, "missing": list(error.missing)}
            return await self._leave(NOT_STARTED, bye, DRAIN_SECONDS)
        except Exception as error:
            log.exception("worker.failed")
            return await self._leave(FAILED, {"cause": "internal", "detail": describe(error)}, DRAIN_SECONDS)
        grace = await self._stop
        return await self._leave(STOPPED, {"cause": "stopped"}, grace)

    async def _start(self) -> None:
        """Build and start the graph and say READY; returns early when the worker is to stop already."""
        config = self._config
        plan = make_plan(config.graph, config.graph_name)
        for warning in plan.warnings:
            log.warning(**warning)
        self._graph = Graph(
            plan,
            self._registry,
            channel=config.channel,
            emit=self._pipe.send,
            skip_unknown=config.unknown_addons == "skip",
        )
        starting = asyncio.create_task(self._graph.start(config.start_seconds), name="start")
        first: set[asyncio.Future[Any]] = {starting, self._stop}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting}, timeout=self._stop.result() / 2)
            return
        await starting
        self._pipe.post({"t": Up.READY, "nodes": self._graph.nodes, "skipped": self._graph.skipped})
        self._pipe.flush()
        self._describe(self._graph.descriptions())
        self._is_ready = True
        self._turns.open(self._graph)
        self._beat.start()

    async def _leave(self, status: int, bye: Frame, grace: float) -> int:
        """Stop the nodes, say why, and see the last frames off, all within the grace; `status` again."""
        deadline = self._loop.time() + grace
        self._beat.stop()
        await self._turns.close(grace * TURNS_SHARE)
        if self._graph is not None:
            await self._graph.stop(max(0.0, deadline - grace * FRAMES_SHARE - self._loop.time()))
        for request in self._requests:
            request.cancel()
        self._pipe.post({"t": Up.BYE, **bye})
        try:
            async with asyncio.timeout_at(deadline):
                await self._pipe.drain()
        except TimeoutError:
            log.warning("worker.frames_unwritten", status=status)
        self._pipe.close()
        return status

    def _request_stop(self, grace: Any) -> None:
        """The first request decides; the supervisor escalates on its own."""
        if not self._stop.done():
            valid = isinstance(grace, int | float) and grace >= 0
            self._stop.set_result(float(grace) if valid else GRACE_SECONDS)

    def _check_lifeline(self, lifeline: int) -> None:
        """The spawner died: nobody could kill this process any more, so it ends without a word."""
        if not os.read(lifeline, 1):
            os._exit(FAILED)

    def _on_frame(self, frame: Frame) -> None:
        match frame["t"]:
            case Down.STOP:
                self._request_stop(frame.get("grace"))
            case Down.TURN:
                self._turns.begin(frame)
            case Down.CANCEL:
                self._turns.cancel(frame)
            case Down.COMMAND | Down.UPDATE:
                self._begin_request(frame)
            case Down.RESUME:
                self._describe_again()
            case other:
                log.warning("worker.frame_ignored", type=other)

    def _begin_request(self, frame: Frame) -> None:
        if len(self._requests) >= REQUESTS_AT_ONCE:
            error = f"{REQUESTS_AT_ONCE} commands and updates are under way, which is the most"
            self._pipe.post({"t": Up.REPLY, "id": frame.get("id"), "ok": False, "error": error})
            return
        task = self._loop.create_task(self._answer(frame), name=frame["t"])
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _answer(self, frame: Frame) -> None:
        reply: Frame = {"t": Up.REPLY, "id": frame.get("id")}
        try:
            result = None
            if frame["t"] == Down.COMMAND:
                result = await self._built().command(frame.get("payload"))
            else:
                self._update(frame.get("properties"))
            await self._pipe.send({**reply, "ok": True, "result": result})
        except (CommandError, UpdateError, FrameError) as error:
            await self._pipe.send({**reply, "ok": False, "error": str(error)})
        except FAILURES as error:  # of a node that cannot describe itself
            log.exception("worker.request_failed", type=frame["t"])
            await self._pipe.send({**reply, "ok": False, "error": describe(error)})

    def _update(self, properties: Any) -> None:
        """Update nodes; what they say of themselves then stands before the reply."""
        graph = self._built()
        self._describe(graph.descriptions(graph.update(properties)))

    def _describe(self, descriptions: list[Frame]) -> None:
        for description in descriptions:
            try:
                self._pipe.post(description)
            except FrameError as error:
                log.warning("node.description_unfit", node=description["node"], error=str(error))

    def _describe_again(self) -> None:
        """A supervisor that follows another has what is on record: nothing of what updates made of the nodes."""
        if self._graph is not None and self._is_ready:
            try:
                self._describe(self._graph.descriptions())
            except FAILURES:  # of a node that cannot describe itself
                log.exception("worker.not_described")

    def _built(self) -> Graph:
        if self._graph is None:
            raise CommandError("the graph is not built yet")
        return self._graph
