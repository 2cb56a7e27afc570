"""One server at several addresses, on real sockets."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.harness import Agentd
from tests.harness.graphs import own
from tests.harness.witness import Witness

pytestmark = pytest.mark.own_interpreter

ANY = "127.0.0.1:0"


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody else listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def probe(url: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


async def healthy(address: str) -> bool:
    status, answer = await probe(f"{address}/health")
    return status == 200 and answer["status"] == "healthy"


async def connects(address: str) -> bool:
    host, _, port = address.removeprefix("http://").rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def test_one_server_at_several_addresses(agentd: Agentd) -> None:
    await agentd.start("--listen", ANY, "--listen", f"{ANY},[::1]:0", AGENTD_LISTEN="127.0.0.1:1")
    ready = await agentd.event("server.ready")
    addresses: list[str] = ready["addresses"]
    assert len(set(addresses)) == 3
    assert [address.rpartition(":")[0] for address in addresses] == ["http://127.0.0.1"] * 2 + ["http://[::1]"]
    assert all([await healthy(address) for address in addresses])
    await agentd.begin("c")
    _, channels = await probe(f"{addresses[2]}/list")
    assert [row["channelName"] for row in channels["data"]] == ["c"]
    assert await agentd.stop() == 0
    assert not any([await connects(address) for address in addresses])


async def test_addresses_of_the_environment(agentd: Agentd) -> None:
    await agentd.start(AGENTD_LISTEN=f"{ANY}, {ANY}")
    addresses = (await agentd.event("server.ready"))["addresses"]
    assert len(addresses) == 2
    assert all([await healthy(address) for address in addresses])


async def test_an_address_that_is_taken_is_told_and_none_is_bound(agentd: Agentd, taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(AssertionError, match=r"without server\.ready"):
        await agentd.start(AGENTD_LISTEN=f"{free},{taken}")
    assert await agentd.stop() == 1
    told = [event["text"] for event in agentd.events if event["event"] == "text"]
    assert told == [f"agentd: cannot listen on {taken}: Address already in use\n"]
    assert not await connects(free)
    assert list(agentd.state_dir.iterdir()) == []


async def test_an_ipv6_address_that_is_taken_is_told(agentd: Agentd) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        taken = f"[::1]:{listener.getsockname()[1]}"
        with pytest.raises(AssertionError, match=r"without server\.ready"):
            await agentd.start(AGENTD_LISTEN=f"{ANY},{taken}")
    assert await agentd.stop() == 1
    assert agentd.events[-1]["text"].startswith(f"agentd: cannot listen on {taken}: ")


async def test_an_address_given_twice_ends_the_start(agentd: Agentd) -> None:
    with pytest.raises(AssertionError, match=r"without server\.ready"):
        await agentd.start("--listen", "127.0.0.1:8090", "--listen", "127.0.0.1:8090")
    assert await agentd.stop() == 2
    [line] = [event["text"] for event in agentd.events]
    assert line.startswith("agentd: --listen='127.0.0.1:8090,127.0.0.1:8090' (command line): 127.0.0.1:8090 ")


async def test_a_server_that_drains_says_so_at_every_address(agentd: Agentd, witness: Witness) -> None:
    deaf = own("ignore_sigterm", agentd.folder, name="deaf", deaf=True)
    await agentd.start(graphs=[deaf], AGENTD_LISTEN=f"{ANY},{ANY}", WORKER_STOP_GRACE_SECONDS="1")
    addresses = (await agentd.event("server.ready"))["addresses"]
    await agentd.begin("beast", "deaf")
    assert [await probe(f"{address}/readiness") for address in addresses] == [(200, {"status": "ready"})] * 2
    assert agentd.process is not None
    agentd.process.send_signal(signal.SIGTERM)
    await agentd.event("server.stopping")
    assert [await probe(f"{address}/readiness") for address in addresses] == [
        (503, {"status": "draining", "reason": "shutting_down"})
    ] * 2
    assert await probe(f"{addresses[1]}/liveness") == (200, {"status": "alive"})
    assert await agentd.process.wait() == 0
