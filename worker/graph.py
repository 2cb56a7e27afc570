"""One channel's graph at work: builds the nodes of a plan, starts them, carries messages between them, stops them.

Every node has one task and one bounded queue; it sees one message or command at a time. A node that raises is reported
as its state, and the others go on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from worker.agent import Agent
from worker.conversation import TEXT_DATA
from worker.frames import Frame, FrameError, Up
from worker.node import Context, Kind, Message, Node, NodeBusyError, PropertyError
from worker.plan import NodeSpec, Plan, StartError, invalid
from worker.registry import Registry
from worker.texts import brief, said

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

QUEUE_LENGTH: Final = 256
QUEUE_SECONDS: Final = 5.0
COMMAND_SECONDS: Final = 5.0
STARTS_AT_ONCE: Final = 16
FAILURES: Final = (Exception, SystemExit, KeyboardInterrupt)  # what add-ons raise; none of them ends the worker

Emit = Callable[[Frame], Awaitable[int]]


class CommandError(Exception):
    """A command that got no result; the text says why."""


class UpdateError(ValueError):
    """Properties that were not taken; the text names the node and what is allowed."""


@dataclass(frozen=True, slots=True)
class Call:
    """A command in a node's queue and where its result is awaited."""

    command: str
    payload: Mapping[str, Any]
    result: asyncio.Future[Any]


@dataclass(slots=True)
class Member:
    """A node in its graph: its queue, and the task that empties it once the graph has started."""

    spec: NodeSpec
    node: Node
    context: Context
    queue: asyncio.Queue[Message | Call] = field(default_factory=lambda: asyncio.Queue(QUEUE_LENGTH))
    started: bool = False
    task: asyncio.Task[None] | None = None

    def update(self, properties: Mapping[str, Any]) -> None:
        """Let the node take these properties; raises what it raises to refuse them."""
        self.node.update(properties)
        self.context.properties = properties


class Graph:
    """The nodes of one plan. `emit` sends an upward frame and waits while the window is full.

    The constructor builds all nodes; it raises StartError when add-ons are missing (all of them are named), cannot be
    imported, or refuse their properties. With `skip_unknown` the nodes of missing add-ons are inert, and so are
    subgraphs: messages to them go nowhere.
    """

    def __init__(self, plan: Plan, registry: Registry, *, channel: str, emit: Emit, skip_unknown: bool = False) -> None:
        if plan.subgraphs and not skip_unknown:
            raise invalid(f"nodes of type subgraph cannot be run: {', '.join(plan.subgraphs)}")
        loaded = registry.load((spec.addon for spec in plan.nodes), allow_missing=skip_unknown)
        self._routes = plan.routes
        self._emit = emit
        self._channel = channel
        self._members = {
            spec.name: self._build(spec, loaded.classes[spec.addon])
            for spec in plan.nodes
            if spec.addon in loaded.classes
        }
        self.skipped: list[dict[str, str]] = [
            {"name": spec.name, "addon": spec.addon} for spec in plan.nodes if spec.addon in loaded.missing
        ]
        self.skipped += [{"name": name} for name in (*plan.subgraphs, *plan.elsewhere)]

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """Name and add-on of each node, in the order of the document, and what the agents among them handle."""
        return [
            {"name": name, "addon": member.spec.addon}
            | ({"handles": member.node.handles()} if isinstance(member.node, Agent) else {})
            for name, member in self._members.items()
        ]

    def descriptions(self, names: Collection[str] | None = None) -> list[Frame]:
        """A ``state`` frame for each node, of these or of all, that describes its properties."""
        described = (
            (name, member.node.describe()) for name, member in self._members.items() if names is None or name in names
        )
        return [{"t": Up.STATE, "node": name, "properties": values} for name, values in described if values]

    def agent(self, verb: Any) -> Agent | None:
        """The node that answers turns of this kind: the first, in the order of the document, that handles it."""
        nodes = (member.node for member in self._members.values())
        return next((node for node in nodes if isinstance(node, Agent) and verb in node.handles()), None)

    def passes_on_text(self, agent: Agent) -> bool:
        """Whether a connection leads on what this agent says."""
        routes = self._routes.get((Kind.DATA, agent.context.node, TEXT_DATA), ())
        return any(route.node in self._members for route in routes)

    def update(self, properties: Any) -> list[str]:
        """Give nodes new values of properties, by node and property; the names of these nodes.

        All nodes take theirs, or none does: raises UpdateError for a node that is not there or refuses. It is done at
        once, whatever the nodes are doing.
        """
        if not isinstance(properties, dict) or not all(isinstance(values, dict) for values in properties.values()):
            raise UpdateError(f"an update has an object of properties by node, not {properties!r:.100}")
        if unknown := properties.keys() - self._members.keys():
            raise UpdateError(f"no node {', '.join(sorted(unknown))}; there are {', '.join(self._members)}")
        done: list[tuple[Member, Mapping[str, Any]]] = []
        for name, values in properties.items():
            member = self._members[name]
            before = member.context.properties
            try:
                member.update({**before, **values})
            except FAILURES as error:
                for changed, former in done:
                    self._undo(changed, former)
                told = brief(str(error)) if isinstance(error, PropertyError) else describe(error)
                raise UpdateError(f"node {name!r} (add-on {member.spec.addon!r}): {told}") from error
            done.append((member, before))
        return list(properties)

    async def start(self, seconds: float) -> None:
        """Start all nodes, some at once, then let messages flow.

        Raises StartError: graph_invalid for the first node that raises (the others are cancelled), start_timeout with
        the nodes that did not start within `seconds`. What was started then is for `stop` to stop.
        """
        places = asyncio.Semaphore(STARTS_AT_ONCE)
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for member in self._members.values():
                    group.create_task(self._start(member, places))
        except TimeoutError:
            late = [name for name, member in self._members.items() if not member.started]
            raise StartError(
                "start_timeout", f"these nodes did not start within {seconds} s: {', '.join(late)}"
            ) from None
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        for name, member in self._members.items():
            member.task = asyncio.create_task(self._work(member), name=f"node {name}")

    async def stop(self, seconds: float) -> None:
        """Stop all nodes at once, within `seconds`; a node that takes longer is left to the end of the process."""
        working = [member.task for member in self._members.values() if member.task is not None]
        for task in working:
            task.cancel()
        stopping = [
            asyncio.create_task(self._stop(member), name=f"stop {name}")
            for name, member in self._members.items()
            if member.started
        ]
        if not (tasks := {*working, *stopping}):
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            log.warning("graph.stop_late", task=task.get_name(), seconds=seconds)
            task.cancel()

    async def command(self, payload: Any) -> Any:
        """Let the first node that handles this command answer it; the handler's result.

        The name is ``payload["ten"]["name"]``. Raises CommandError when there is none, nobody handles it, the handler
        raises, or there is no result within COMMAND_SECONDS.
        """
        match payload:
            case {"ten": {"name": str(name)}} if name:
                pass
            case _:
                raise CommandError("a command's payload names it at ten.name, by a string that is not empty")
        member = next((m for m in self._members.values() if name in m.context.handlers), None)
        if member is None:
            raise CommandError(f"no node handles the command {name!r}")
        call = Call(name, payload, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                await member.queue.put(call)
                return await call.result
        except TimeoutError:
            raise CommandError(
                f"node {member.spec.name!r} did not answer the command {name!r} within {COMMAND_SECONDS} s"
            ) from None

    def _undo(self, member: Member, former: Mapping[str, Any]) -> None:
        try:
            member.update(former)
        except FAILURES as error:
            log.exception("node.update_not_undone", node=member.spec.name, error=describe(error))

    def _build(self, spec: NodeSpec, addon: type[Node]) -> Member:
        context = Context(
            node=spec.name,
            addon=spec.addon,
            channel=self._channel,
            properties=spec.properties,
            route=self._route,
            emit=self._emit,
        )
        try:
            return Member(spec, addon(context), context)
        except Exception as error:  # whatever an add-on raises
            raise _failure(spec, error) from error

    async def _start(self, member: Member, places: asyncio.Semaphore) -> None:
        async with places:
            try:
                await member.node.start()
            except Exception as error:
                raise _failure(member.spec, error) from error
            member.started = True

    async def _stop(self, member: Member) -> None:
        try:
            await member.node.stop()
        except Exception as error:
            log.exception("node.stop_failed", node=member.spec.name, error=describe(error))

    async def _work(self, member: Member) -> None:
        while True:
            item = await member.queue.get()
            try:
                if isinstance(item, Message):
                    await member.node.on_message(item)
                elif not item.result.done():  # else nobody waits for it any more
                    await self._answer(member, item)
            except FAILURES as error:  # reported; the others go on
                await self._report(member, error)

    async def _answer(self, member: Member, call: Call) -> None:
        try:
            result = await member.context.handlers[call.command](call.payload)
        except FAILURES as error:
            if not call.result.done():
                call.result.set_exception(CommandError(describe(error)))
            raise
        if not call.result.done():
            call.result.set_result(result)

    async def _report(self, member: Member, error: BaseException) -> None:
        text = describe(error)
        log.error("node.failed", node=member.spec.name, addon=member.spec.addon, error=text, exc_info=error)
        try:
            await self._emit({"t": Up.STATE, "node": member.spec.name, "error": text})
        except FrameError as unfit:
            log.exception("node.state_unfit", node=member.spec.name, error=str(unfit))

    async def _route(self, source: str, message: Message) -> None:
        full = []
        for route in self._routes.get((message.kind, source, message.name), ()):
            member = self._members.get(route.node)
            if member is None:  # inert
                continue
            item = route.conversion.apply(message) if route.conversion else message
            try:
                member.queue.put_nowait(item)
            except asyncio.QueueFull:
                full.append((member, item))
        lost = [member.spec.name for member, item in full if not await _put(member.queue, item)]
        if lost:
            raise NodeBusyError(f"no place for {message.name!r} within {QUEUE_SECONDS} s at: {', '.join(lost)}")


async def _put(queue: asyncio.Queue[Message | Call], item: Message) -> bool:
    try:
        async with asyncio.timeout(QUEUE_SECONDS):
            await queue.put(item)
    except TimeoutError:
        return False
    return True


def describe(error: BaseException) -> str:
    """An exception as text that fits a frame: its class and what it says."""
    return brief(f"{type(error).__name__}: {said(error)}")


def _failure(spec: NodeSpec, error: Exception) -> StartError:
    return invalid(f"node {spec.name!r} (add-on {spec.addon!r}): {describe(error)}")
