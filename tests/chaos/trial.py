"""One trial: sessions and clients, faults at their moments, recovery, and what does not hold then."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import aiohttp

from tests.chaos import invariants
from tests.chaos.clients import Churner, Client, Pinger, Reader
from tests.chaos.faults import DOINGS, Scene
from tests.chaos.house import FOREIGN, House
from tests.chaos.plan import Fault, Plan
from tests.chaos.strangers import Strangers
from tests.harness.server import Agentd

BEGIN_SECONDS = 60.0
END_SECONDS = 120.0


async def run(plan: Plan, house: House, strangers: Strangers) -> list[str]:
    """Carry out a plan; what did not hold. Raises nothing that the plan may bring about."""
    server = await house.serve()
    channels = await _begin(plan, server)
    scene = Scene(house, channels)
    async with _clients(server.address) as client:
        readers = [Reader(client, name, plan.pieces, plan.pace) for name in channels if name.startswith("talker")]
        churners = [
            Churner(client, f"churner{n}-{plan.seed}", ("echo", "resident")[n % 2]) for n in range(plan.churners)
        ]
        others = [one.run() for one in (*churners, Pinger(client, list(channels)))]
        known = [*(scene.pid(name) for name in channels), *filter(None, map(house.pid_of, ("spawner", "zygote")))]
        async with _meanwhile(strangers.follow(known)):
            server = await _live(plan, scene, client, readers, others)
            found = await _judge(plan, scene, server, readers, churners)
    return found + await strangers.release()


async def _live(
    plan: Plan, scene: Scene, client: Client, readers: list[Reader], others: list[Coroutine[Any, Any, None]]
) -> Agentd:
    """Clients, faults, recovery; the server that is there in the end."""
    async with asyncio.timeout(END_SECONDS), asyncio.TaskGroup() as group:
        reading = [group.create_task(reader.run(), name=f"reader of {reader.channel}") for reader in readers]
        for other in others:
            group.create_task(other)
        for reader in readers:
            await reader.begun.wait()
        await asyncio.gather(*(_befall(scene, fault) for fault in plan.faults))
        await asyncio.sleep(plan.downtime)
        server = await scene.house.serve()
        await asyncio.gather(*reading)
        client.over.set()
    return server


async def _begin(plan: Plan, server: Agentd) -> dict[str, dict[str, Any]]:
    """Start the channels that last for the trial; what the API shows of each."""
    graphs = {f"talker{number}-{plan.seed}": "resident" for number in range(plan.talkers)}
    graphs |= {f"foreign{number}-{plan.seed}": f"foreign{number}" for number in range(min(plan.foreign, FOREIGN))}
    for name, graph in graphs.items():
        await server.begin(name, graph, timeout=120)
    return {name: await server.channel(name) for name in graphs}


async def _befall(scene: Scene, fault: Fault) -> None:
    await asyncio.sleep(fault.at)
    await DOINGS[fault.kind](scene, fault)
    scene.done.append(fault.kind)


async def _judge(
    plan: Plan,
    scene: Scene,
    server: Agentd,
    readers: list[Reader],
    churners: list[Churner],
) -> list[str]:
    house = scene.house
    found, house.unexpected = house.unexpected, []
    if any(fault.kind == "starve_server" for fault in plan.faults):
        found = []  # one without memory may end
    await _attached(server)
    found += invariants.streams(scene, readers)
    found += await invariants.sessions(scene, server)
    found += await invariants.stops(scene, server)
    accepted = dict.fromkeys(scene.channels, 1) | {churner.channel: churner.accepted for churner in churners}
    if any(fault.kind == "fill_state" for fault in plan.faults):
        accepted = dict.fromkeys(accepted, 0)  # what was begun on a full disk is on record nowhere if all is lost then
    accepted |= dict.fromkeys(scene.torn, 0)  # it may be that nobody but the record knew
    found += await invariants.ledger(accepted, server)
    found += invariants.answers(scene, churners)
    if scene.may_orphan:
        invariants.end_orphans(house)
    found += await invariants.leftovers(house)
    found += invariants.doubles(house)
    if not any(fault.kind == "fill_logs" for fault in plan.faults):
        commands = [name for name in scene.channels if name.startswith("foreign")]
        found += invariants.logs(house, [name for name in commands if name not in scene.may_end])
    found += await invariants.open_descriptors(house)
    for file in house.witness.iterdir():
        file.unlink()
    return found


async def _attached(server: Agentd) -> None:
    """Wait until there is a spawner again."""
    async with asyncio.timeout(END_SECONDS):
        while (await server.get("/health?details=1"))["data"]["spawner"] != "attached":
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def _clients(address: str) -> AsyncIterator[Client]:
    connector = aiohttp.TCPConnector(limit=64, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(sock_connect=10)) as session:
        yield Client(address, session)


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work, name="meanwhile")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
