"""Random interleavings of starts, pings, stops, kills, exits and lapses against a model, with real workers.

One real server lives in this process for the whole run. Every step issues several requests at once; afterwards all
that was begun has come to its end, and the model says what may have come out. The profile of the environment decides
whether examples are random (Hypothesis loads its own profile on CI, which is not).
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import structlog
import uvloop
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from supervisor.app import Server
from supervisor.causes import Cause, Refusal
from supervisor.channels.channel import Channel
from supervisor.channels.lifecycle import State
from supervisor.channels.requests import StartRequest
from supervisor.settings import Settings
from tests.harness.server import PATIENCE
from tests.harness.workers import workers_of

# The first loop of a process opens libuv's one signal pipe, which stays for the process: not a leak of the test below.
uvloop.new_event_loop().close()

SLOTS = 4
FEW = 2
NAMES = 5
SOON = 0.02  # seconds of a lease that lapses within a step
OK = "ok"

# Which causes an operation may give the end of a channel.
ENDS: dict[str, frozenset[Cause]] = {
    "stop": frozenset({Cause.STOPPED}),
    "kill": frozenset({Cause.KILLED}),
    "crash": frozenset({Cause.CRASHED, Cause.EXITED_BEFORE_READY}),
    "terminate": frozenset({Cause.EXITED, Cause.CRASHED, Cause.EXITED_BEFORE_READY}),
    "start_lapsing": frozenset({Cause.LAPSED}),
}
LIMITS = frozenset({Cause.WORKERS_LIMIT, Cause.GRAPH_LIMIT})


@dataclass
class Ask:
    """One operation of a step: what, on which channel, how many turns of the loop later; and what came out."""

    what: str
    slot: int
    graph: str = "echo"
    later: int = 0
    name: str = ""
    outcome: Any = None
    channel: Channel | None = None


@dataclass
class World:
    """The server, and the loop that is run for each step."""

    runner: asyncio.Runner
    server: Server
    folder: Path
    examples: int = 0
    steps: Counter[str] = field(default_factory=Counter)

    @property
    def table(self) -> Any:
        return self.server.table


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    """A server on its own loop, with room for few workers."""
    node = {"type": "extension", "name": "n", "addon": "echo"}
    missing = {"type": "extension", "name": "n", "addon": "not_installed"}
    graphs = [{"name": name, "graph": {"nodes": [node]}} for name in ("echo", "few")]
    graphs.append({"name": "missing", "graph": {"nodes": [missing]}})
    (folder / "property.json").write_text(json.dumps({"ten": {"predefined_graphs": graphs}}))
    state_dir = folder / "state"
    state_dir.mkdir(mode=0o700)
    chosen = Settings(
        app_dir=folder, state_dir=state_dir, workers_max=SLOTS, graph_limits={"few": FEW}, worker_stop_grace_seconds=5
    )
    faults: list[Any] = []
    with errors_to(faults), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def begin() -> Server:
            server = Server(chosen, dict(os.environ))
            await server.start([])
            return server

        server = runner.run(begin())
        try:
            yield World(runner, server, folder)
        finally:
            runner.run(server.stop())
    assert faults == []


@contextlib.contextmanager
def errors_to(faults: list[Any]) -> Iterator[None]:
    """Log nothing but errors, and these into a list."""

    def keep(_: Any, __: str, event: Any) -> Any:
        faults.append(event)
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield
    finally:
        structlog.reset_defaults()


operations = st.builds(
    Ask,
    what=st.sampled_from(
        ["start", "start", "start", "ping", "stop", "stop", "kill", "crash", "terminate", "start_lapsing", "command"]
    ),
    slot=st.integers(0, NAMES - 1),
    graph=st.sampled_from(["echo", "echo", "echo", "few", "few", "missing", "nobody"]),
    later=st.sampled_from([0, 0, 0, 1, 2, 3, 5, 8, 20, 60]),
)


class Machine(RuleBasedStateMachine):
    """The model: which channel is running under which name, and nothing else, since steps are whole."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.world.examples += 1
        self.example = self.world.examples
        self.model: dict[str, Channel] = {}

    # ------------------------------------------------------------------ steps

    @rule(asks=st.lists(operations, min_size=1, max_size=6))
    def at_once(self, asks: list[Ask]) -> None:
        """Everything in the same turn of the loop: claims are atomic, so what comes out is certain."""
        self.step([Ask(ask.what, ask.slot, ask.graph) for ask in asks], certain=True)

    @rule(asks=st.lists(operations, min_size=2, max_size=8))
    def interleaved(self, asks: list[Ask]) -> None:
        """Each some turns of the loop later than the other."""
        self.step([Ask(ask.what, ask.slot, ask.graph, ask.later) for ask in asks], certain=False)

    @rule(slot=st.integers(0, NAMES - 1), graph=st.sampled_from(["echo", "few"]), count=st.integers(2, 8))
    def starts_of_one_name(self, slot: int, graph: str, count: int) -> None:
        self.step([Ask("start", slot, graph) for _ in range(count)], certain=True)

    @rule(graph=st.sampled_from(["echo", "few"]))
    def starts_of_all_names(self, graph: str) -> None:
        self.step([Ask("start", slot, graph) for slot in range(NAMES)], certain=True)

    @rule(slot=st.integers(0, NAMES - 1), later=st.lists(st.integers(0, 60), min_size=2, max_size=4))
    def a_start_and_its_stops(self, slot: int, later: list[int]) -> None:
        self.step([Ask("start", slot), *(Ask("stop", slot, later=turns) for turns in later)], certain=False)

    @rule(slot=st.integers(0, NAMES - 1), later=st.integers(0, 60))
    def a_lapse_and_its_pings(self, slot: int, later: int) -> None:
        self.step([Ask("start_lapsing", slot), *(Ask("ping", slot, later=later * n) for n in range(4))], certain=False)

    @rule()
    def stop_all(self) -> None:
        self.step([Ask("stop", slot) for slot in range(NAMES)], certain=True)

    def teardown(self) -> None:
        self.stop_all()
        assert self.world.table.all() == []

    # ------------------------------------------------------------------ carrying a step out

    def step(self, asks: list[Ask], *, certain: bool) -> None:
        for ask in asks:
            ask.name = f"{self.example} {ask.slot}"
            self.world.steps[ask.what] += 1
        expected = self.foretell(asks) if certain else None
        self.world.runner.run(self.carry_out(asks))
        self.check(asks)
        if expected is not None:
            got = [ask.outcome for ask in asks]
            assert all(one in allowed for one, allowed in zip(got, expected, strict=True)), (asks, expected)

    async def carry_out(self, asks: list[Ask]) -> None:
        before = list(self.model.values())
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(self.carry_out_one(ask) for ask in asks))
                ending = [ask.channel for ask in asks if ask.channel is not None and ask.what in ENDS]
                for channel in (*ending, *before):
                    if channel.state in {State.STOPPING, State.GONE} or channel in ending:
                        await channel.gone()
        except TimeoutError as error:
            channels = [
                (c.id, c.name, c.state, c.pid, c.lease.remaining(time.monotonic())) for c in self.world.table.all()
            ]
            live = workers_of(self.world.folder / "state")
            raise AssertionError(f"a step does not end: {asks}, {channels}, {live}") from error

    async def carry_out_one(self, ask: Ask) -> None:
        for _ in range(ask.later):
            await asyncio.sleep(0)
        try:
            ask.outcome = await getattr(self, f"do_{ask.what}")(ask)
        except Refusal as refusal:
            ask.outcome = refusal.cause

    async def do_start(self, ask: Ask) -> str:
        ask.channel = await self.world.table.start(StartRequest(channel_name=ask.name, graph_name=ask.graph))
        return OK

    async def do_start_lapsing(self, ask: Ask) -> str:
        wanted = StartRequest(channel_name=ask.name, graph_name=ask.graph, timeout=SOON)  # type: ignore[arg-type]
        ask.channel = await self.world.table.start(wanted)
        return OK

    async def do_ping(self, ask: Ask) -> str:
        self.world.table.ping(ask.name)
        return OK

    async def do_stop(self, ask: Ask) -> str:
        ask.channel = self.world.table.get(ask.name)
        receipt = await self.world.table.stop(ask.name)
        assert receipt is None or receipt.left == 0
        return OK

    async def do_kill(self, ask: Ask) -> str:
        ask.channel = self.world.table.get(ask.name)
        receipt = await self.world.table.stop(ask.name, cause=Cause.KILLED, kill=True)
        assert receipt is None or receipt.left == 0
        return OK

    async def do_crash(self, ask: Ask) -> str:
        return await self.end(ask, signal.SIGKILL)

    async def do_terminate(self, ask: Ask) -> str:
        return await self.end(ask, signal.SIGTERM)

    async def do_command(self, ask: Ask) -> str:
        await self.world.table.command(ask.name, {"ten": {"name": "nobody_handles_it", "type": "cmd"}})
        return OK

    async def end(self, ask: Ask, number: signal.Signals) -> str:
        """The worker ends by itself: a signal from outside, once it has told who it is."""
        ask.channel = channel = self.world.table.get(ask.name)
        if channel is None:
            return "nobody"
        with contextlib.suppress(Refusal):
            await channel.started()
        if self.world.table.get(ask.name) is channel and channel.state is State.RUNNING:
            assert channel.pid is not None
            with contextlib.suppress(ProcessLookupError):
                os.kill(channel.pid, number)
        return OK

    # ------------------------------------------------------------------ the model

    def foretell(self, asks: list[Ask]) -> list[set[Any]]:
        """What each operation may answer when all are issued in one turn of the loop, in this order."""
        taken = {name: channel.graph_name for name, channel in self.model.items()}
        expected: list[set[Any]] = []
        for ask in asks:
            present = ask.name in taken
            if ask.what in {"start", "start_lapsing"}:
                refusal = self.refusal(ask, taken)
                if refusal is not None:
                    expected.append({refusal})
                    continue
                taken[ask.name] = ask.graph
                stopped = {"stop", "kill"} & {other.what for other in asks if other.name == ask.name}
                failed = {Cause.STOPPED, Cause.KILLED} if stopped else set()
                expected.append(failed | ({Cause.ADDONS_MISSING} if ask.graph == "missing" else {OK}))
            elif ask.what in {"ping", "stop", "kill"}:
                expected.append({OK} if present else {Cause.CHANNEL_UNKNOWN})
            elif ask.what == "command":
                runs = ask.name in self.model
                expected.append({Cause.COMMAND_UNDELIVERED} if runs else {Cause.CHANNEL_UNKNOWN})
            else:
                expected.append({OK} if present else {"nobody"})
        return expected

    @staticmethod
    def refusal(ask: Ask, taken: dict[str, str]) -> Cause | None:
        """The first check of a start that fails (wire/ten.md section 4)."""
        if len(taken) >= SLOTS:
            return Cause.WORKERS_LIMIT
        if ask.name in taken:
            return Cause.CHANNEL_EXISTS
        if ask.graph == "few" and list(taken.values()).count("few") >= FEW:
            return Cause.GRAPH_LIMIT
        return Cause.GRAPH_UNKNOWN if ask.graph == "nobody" else None

    def check(self, asks: list[Ask]) -> None:
        """What must hold after any step, however its operations fell together."""
        table = self.world.table
        for name in {ask.name for ask in asks}:
            mine = [ask for ask in asks if ask.name == name]
            self.check_name(name, mine, table.get(name))
        self.model = {channel.name: channel for channel in table.all()}

    def check_name(self, name: str, asks: list[Ask], now: Channel | None) -> None:
        before = self.model.get(name)
        enders = {ask.what for ask in asks} & set(ENDS)
        started = [ask.channel for ask in asks if ask.what.startswith("start") and ask.outcome == OK]
        starts = [ask for ask in asks if ask.what.startswith("start")]
        # Whoever is there now was there before, or was started with success and never ended.
        assert now is None or now.state is State.RUNNING
        assert now is None or now is before or now in started
        assert len(set(map(id, started))) == len(started)
        for channel in {id(c): c for c in (before, *started) if c is not None and c is not now}.values():
            assert channel.state is State.GONE
            assert channel.ending is not None
            causes = frozenset().union(*(ENDS[what] for what in enders))
            assert channel.ending.cause in causes, (channel.ending, asks)
            assert channel.ending.receipt is not None
            assert channel.ending.receipt.left == 0
        allowed_start = {OK, Cause.CHANNEL_EXISTS, Cause.GRAPH_UNKNOWN, Cause.ADDONS_MISSING, *LIMITS}
        if enders:
            allowed_start |= {Cause.STOPPED, Cause.KILLED, Cause.EXITED_BEFORE_READY, Cause.LAPSED}
        for ask in starts:
            assert ask.outcome in allowed_start, ask
            assert ask.graph not in {"missing", "nobody"} or ask.outcome != OK
        for ask in asks:
            if ask.what == "ping":
                assert ask.outcome in {OK, Cause.CHANNEL_UNKNOWN}
                assert ask.outcome == OK or before is None or enders, ask
                assert ask.outcome != OK or before is not None or starts, ask
            if ask.what in {"stop", "kill"}:
                assert ask.outcome in {OK, Cause.CHANNEL_UNKNOWN}, ask
            if ask.what == "command":
                assert ask.outcome in {Cause.COMMAND_UNDELIVERED, Cause.CHANNEL_UNKNOWN}, ask
        if not enders:
            assert now is before if before is not None else len(started) <= 1
            assert before is None or not started

    # ------------------------------------------------------------------ invariants

    @invariant()
    def the_table_is_the_model(self) -> None:
        table = self.world.table
        assert {channel.name: channel for channel in table.running()} == self.model
        assert len(table.all()) == len(self.model) <= SLOTS
        assert sum(channel.graph_name == "few" for channel in table.all()) <= FEW

    @invariant()
    def every_slot_is_one_live_worker(self) -> None:
        found = workers_of(self.world.folder / "state")
        assert sorted(found.values()) == sorted(channel.id for channel in self.model.values())
        # Who is running is known by its number, also when it said READY before the spawner told of it.
        assert all(found[channel.pid or 0] == channel.id for channel in self.model.values())

    @invariant()
    def every_folder_is_a_channels(self) -> None:
        folders = {path.name for path in (self.world.folder / "state" / "ch").iterdir()}
        assert folders == {channel.id for channel in self.model.values()}


def test_random_interleavings(tmp_path: Path) -> None:
    with world(tmp_path) as running:
        Machine.world = running
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Machine,
            # No shrinking: a failing step is told whole, and replaying real processes would take minutes.
            settings=settings(
                max_examples=40, stateful_step_count=20, deadline=None, phases=set(Phase) - {Phase.shrink}
            ),
        )
    assert running.examples >= 40
    assert all(running.steps[what] for what in ENDS), running.steps
