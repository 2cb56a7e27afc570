"""The HTTP layer over real sockets; behind it a small channel table in memory that keeps the table's contract."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from yarl import URL

from supervisor.attachments.state import TaskState
from supervisor.catalog import GraphCatalog
from supervisor.causes import Cause, Refusal
from supervisor.channels.bell import Bell
from supervisor.channels.confinement import Isolated
from supervisor.channels.feed import Feed
from supervisor.channels.lease import Lease, timeout_of
from supervisor.channels.lifecycle import State
from supervisor.channels.requests import NOBODY, Owner, StartRequest, check_channel_name
from supervisor.http.connections import Site, make_runner
from supervisor.http.credentials import Credentials
from supervisor.http.server import build_app
from supervisor.keys import Keyring
from supervisor.processes.monitor import Sample
from supervisor.settings import Settings
from supervisor.turns.archive import StoreArchive
from supervisor.turns.drain import Drain
from supervisor.turns.sessions import Sessions
from tests.harness.desk import Desk, desks
from worker.spawn import Limits, Receipt

DOCUMENT = {
    "ten": {
        "predefined_graphs": [
            {"name": "greeter", "auto_start": True, "graph": {"nodes": []}},
            {"name": "echo", "graph": {"nodes": []}},
        ]
    }
}
RECEIPT = Receipt(processes=2, killed=1, left=0, seconds=0.25, by="sweep", status=-9)


class MemoryAsking:
    """What is asked of a worker that is none; `fault` is what the next update raises."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.fault: Refusal | None = None

    async def update(self, properties: dict[str, Any]) -> None:
        if self.fault is not None:
            raise self.fault
        self.updates.append(properties)


@dataclass(eq=False)
class MemoryChannel:
    name: str
    id: str
    graph_name: str
    folder: Path
    log_file: Path
    lease: Lease
    state: State = State.STARTING
    pid: int | None = 4711
    health: str = "ok"
    created_at: float = field(default_factory=time.time)
    ending: object = None
    user: str = ""
    session: str | None = None
    source: str = "ten"
    limits: Limits = field(default_factory=Limits)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    asking: MemoryAsking = field(default_factory=MemoryAsking)
    owner: Owner = NOBODY
    isolation: Isolated = field(default_factory=lambda: Isolated("confined", "confined"))

    def __post_init__(self) -> None:
        self.feed = Feed(self.id, most_events=8)

    def end(self) -> None:
        self.feed.publish("ended", {"cause": "stopped", "detail": "", "status": 0})
        self.feed.close()


class MemoryRecords:
    """A ledger that answers with `rows`, whatever it is asked; `fault` is what the next look raises."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.fault: Exception | None = None

    async def ledger(self, **wanted: Any) -> list[dict[str, Any]]:
        self.asked.append(wanted)
        if self.fault is not None:
            raise self.fault
        return self.rows


class NoAttachments:
    """A server without files: nothing is found, and nothing is taken."""

    async def given(self, _user: str, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        return [None] * len(ids)

    def check_room(self, _files: int = 1) -> None:
        raise Refusal(Cause.SHUTTING_DOWN)

    async def task(self, task_id: str) -> TaskState:
        return TaskState(id=task_id, attachment_id="", name="", mime_type="")


class MemoryTable:
    """Channels without processes. `gate` holds starts back, `fault` is what the next call raises."""

    def __init__(self, root: Path, catalog: GraphCatalog, workers_max: int = 100) -> None:
        self.root = root
        self.catalog = catalog
        self.workers_max = workers_max
        self.channels: dict[str, MemoryChannel] = {}
        self.started: list[StartRequest] = []
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.pings: list[str] = []
        self.stops: list[tuple[str, Cause, bool]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        self.finished = asyncio.Event()
        self.sampling = asyncio.Event()
        self.sampling.set()
        self.fault: BaseException | None = None
        self.draining = False
        self.freed = Bell()

    def check_open(self) -> None:
        if self.draining:
            raise Refusal(Cause.DRAINING)

    def _fail(self) -> None:
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault

    async def start(self, request: StartRequest) -> MemoryChannel:
        self._fail()
        self.check_open()
        name = request.name
        if len(self.channels) >= self.workers_max:
            raise Refusal(Cause.WORKERS_LIMIT)
        if name in self.channels:
            raise Refusal(Cause.CHANNEL_EXISTS)
        check_channel_name(request.channel_name)
        if request.graph_name not in {graph.name for graph in self.catalog.graphs()}:
            raise Refusal(Cause.GRAPH_UNKNOWN, f"no graph {request.graph_name!r}")
        number = f"c{len(self.started)}"
        folder = self.root / number
        folder.mkdir(parents=True)
        lease = Lease(timeout_of(request.timeout, 60.0))
        channel = MemoryChannel(
            name,
            number,
            request.graph_name,
            folder,
            self.root / f"{number}.log",
            lease,
            user=request.user,
            session=request.session,
            source=request.source,
            limits=request.limits,
            owner=request.owner,
        )
        self.channels[name] = channel
        self.started.append(request)
        self.waiting.set()
        await self.gate.wait()
        channel.state = State.RUNNING
        channel.lease.begin(time.monotonic())
        self.finished.set()
        return channel

    def ping(self, name: str) -> None:
        self._fail()
        self._known(name).lease.ping(time.monotonic())
        self.pings.append(name)

    async def stop(self, name: str, *, cause: Cause = Cause.STOPPED, kill: bool = False) -> Receipt | None:
        self._fail()
        self._known(name)
        self.stops.append((name, cause, kill))
        self.channels.pop(name).end()
        self.freed.ring()
        return RECEIPT

    async def command(self, name: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._known(name)
        self.waiting.set()
        await self.gate.wait()
        self._fail()
        self.commands.append((name, payload))
        return {}

    def get(self, name: str) -> MemoryChannel | None:
        return self.channels.get(name)

    def of_session(self, graph: str, user: str, session: str) -> MemoryChannel | None:
        wanted = (graph, user, session)
        return next((c for c in self.channels.values() if (c.graph_name, c.user, c.session) == wanted), None)

    def running(self) -> list[MemoryChannel]:
        return [channel for channel in self.channels.values() if channel.state is State.RUNNING]

    def all(self) -> list[MemoryChannel]:
        return list(self.channels.values())

    def _known(self, name: str) -> MemoryChannel:
        if name not in self.channels:
            raise Refusal(Cause.CHANNEL_UNKNOWN)
        return self.channels[name]


@dataclass
class Answer:
    status: int
    headers: Any
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def code(self) -> str:
        return str(self.body["code"])


@dataclass
class House:
    """A served application and what stands behind it."""

    table: MemoryTable
    settings: Settings
    runner: web.AppRunner
    base: str
    port: int
    session: ClientSession
    sampled: list[list[str]]
    sessions: Sessions
    lives: Feed
    records: Any

    async def ask(self, method: str, path: str, data: Any = None, **options: Any) -> Answer:
        body = json.dumps(data) if isinstance(data, (dict, list)) else data
        async with self.session.request(method, URL(self.base + path, encoded=True), data=body, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def post(self, path: str, data: Any = None, **options: Any) -> Answer:
        return await self.ask("POST", path, data, **options)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, **options)

    async def start(self, name: str = "lobby", **more: Any) -> MemoryChannel:
        answer = await self.post("/start", {"channel_name": name, "graph_name": "greeter", **more})
        assert answer.code == "0", answer.content
        return self.table.channels[name]


@pytest.fixture
async def desk(state_dir: Path) -> AsyncIterator[Desk]:
    """Attachments with a real store and real readers, for a house: ``build(attachments=desk.attachments)``."""
    async with desks(state_dir) as make:
        yield await make()


Build = Callable[..., Awaitable[House]]


async def open_house(
    root: Path, workers_max: int = 100, records: Any = None, attachments: Any = None, **given: Any
) -> House:
    (root / "property.json").write_text(json.dumps(DOCUMENT))
    settings = Settings(app_dir=root, state_dir=root / "state", **given)
    catalog = GraphCatalog(settings.property_file)
    table = MemoryTable(root / "channels", catalog, workers_max)
    sampled: list[list[str]] = []

    async def sample(channels: Sequence[MemoryChannel]) -> dict[str, Any]:
        await table.sampling.wait()
        sampled.append([channel.name for channel in channels])
        return {channel.id: Sample(1_000, 1.5, 2) for channel in channels}

    records = MemoryRecords() if records is None else records
    sessions, lives = Sessions(settings, table, StoreArchive(records, settings)), Feed("lives", most_events=8)
    app = build_app(
        settings,
        table,
        catalog,
        sample=sample,
        details=lambda: {"workers": len(table.channels)},
        sessions=sessions,
        lives=lives,
        records=records,
        shelf=records,
        conversations=records,
        credentials=Credentials(Keyring(settings.keys_file, settings.token and settings.token.get_secret_value())),
        attachments=attachments or NoAttachments(),
        drain=Drain(table),
    )
    runner = make_runner(app, close_seconds=1)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    await Site(runner, listener).start()
    port = runner.addresses[0][1]
    base = f"http://127.0.0.1:{port}"
    return House(table, settings, runner, base, port, ClientSession(), sampled, sessions, lives, records)


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    houses: list[House] = []

    async def make(**given: Any) -> House:
        houses.append(await open_house(tmp_path, **given))
        return houses[-1]

    yield make
    for house in houses:
        house.table.gate.set()
        await house.session.close()
        await house.runner.cleanup()


@pytest.fixture
async def house(build: Build) -> House:
    return await build()


@pytest.fixture
def ask_sync(tmp_path: Path) -> Iterator[Callable[..., Answer]]:
    """Requests from tests that are no coroutines (hypothesis), all to one server."""
    with asyncio.Runner() as loop:
        house = loop.run(open_house(tmp_path, body_limit_bytes=100_000))
        yield lambda *request, **options: loop.run(house.ask(*request, **options))
        loop.run(house.session.close())
        loop.run(house.runner.cleanup())
