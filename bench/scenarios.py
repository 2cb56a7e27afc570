"""The measured situations. Each starts a server of its own and answers figures."""

import asyncio
import re
import shutil
import time
from collections.abc import Awaitable, Callable

from bench import dialects, restart, streams, survival
from bench.figures import Figure, percentile
from bench.server import BenchServer, channels

GRACE = 2.0
TREE = {"name": "tree", "graph": {"nodes": [{"type": "extension", "name": "t", "addon": "bench_tree"}]}}
PING = b'{"request_id": "p1", "channel_name": "bench-0"}'


async def start_latency(quick: bool) -> list[Figure]:
    """Starts one after the other: from the request to the answer, which comes at the worker's READY."""
    starts, stops = [], []
    async with BenchServer() as server:
        for number in range(20 + (100 if quick else 500)):
            began = time.perf_counter()
            await server.must("/start", channel_name="one", graph_name="echo")
            ready = time.perf_counter()
            await server.must("/stop", channel_name="one")
            if number >= 20:
                starts.append((ready - began) * 1e3)
                stops.append((time.perf_counter() - ready) * 1e3)
    return [
        Figure("start to READY, p50", percentile(starts, 0.50), "ms", at_most=5),
        Figure("start to READY, p99", percentile(starts, 0.99), "ms", at_most=20),
        Figure("orderly stop, p50", percentile(stops, 0.50), "ms"),
        Figure("orderly stop, p99", percentile(stops, 0.99), "ms"),
    ]


async def start_rate(quick: bool) -> list[Figure]:
    """100 starts a second, open loop: a late answer does not delay the next start; each lives half a second."""
    seconds, rate = (5 if quick else 60), 100
    latencies: list[float] = []

    async with BenchServer(WORKERS_MAX="1000") as server:

        async def one(number: int) -> None:
            began = time.perf_counter()
            await server.must("/start", channel_name=f"rate-{number}", graph_name="echo")
            latencies.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(0.5)
            await server.must("/stop", channel_name=f"rate-{number}")

        used, began = server.cpu_seconds(), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(seconds * rate):
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
                group.create_task(one(number))
        took = time.perf_counter() - began
        cpu = (server.cpu_seconds() - used) / took * 100
    return [
        Figure(f"starts/s held for {seconds} s", len(latencies) / took, "/s", at_least=rate * 0.95),
        Figure("start at 100/s, p50", percentile(latencies, 0.50), "ms"),
        Figure("start at 100/s, p99", percentile(latencies, 0.99), "ms", at_most=100),
        Figure("server CPU at 100 starts/s", cpu, "% of a core"),
    ]


async def idle(quick: bool) -> list[Figure]:
    """Many channels that nobody pings: what they cost, then how exactly their leases lapse."""
    count, seconds = (100, 5) if quick else (1000, 20)
    lease = 15 if quick else 90
    async with (
        BenchServer(WORKERS_MAX=str(count), WORKER_START_TIMEOUT_SECONDS="60") as server,
        channels(server, count, "echo", timeout=lease),
    ):
        await asyncio.sleep(2)
        used, began = server.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(seconds)
        cpu = (server.cpu_seconds() - used) / (time.perf_counter() - began) * 100
        rss = server.rss_mb()
        sizes = server.worker_pss_mb()
        async with asyncio.timeout(lease + 60):
            while sum(e["event"] == "channel.gone" for e in server.events) < count:
                await asyncio.sleep(0.2)
        late = [e["late_ms"] for e in server.events if e["event"] == "channel.stopping" and e["cause"] == "lapsed"]
    return [
        Figure(f"{count} idle channels: server RSS", rss, "MB", at_most=80),
        Figure(f"{count} idle channels: server CPU", cpu, "% of a core", at_most=2),
        Figure("worker PSS, mean", sum(sizes) / len(sizes), "MB", at_most=4),
        Figure("worker PSS, largest", max(sizes), "MB"),
        Figure(f"lapse after its deadline, {count} leases, p99", percentile(late, 0.99), "ms"),
        Figure(f"lapse after its deadline, {count} leases, latest", max(late), "ms", at_most=50),
    ]


async def ping(quick: bool) -> list[Figure]:
    """Pings over keep-alive connections, by wrk where it is installed, else by a loop of our own."""
    seconds = 3 if quick else 10
    async with BenchServer() as server, channels(server, 1, "echo"):
        await server.must("/ping", channel_name="bench-0")
        used = server.cpu_seconds()
        rate = await (_wrk(server, seconds) if shutil.which("wrk") else _own_loop(server, seconds))
        cpu = (server.cpu_seconds() - used) / (rate * seconds) * 1e6
    return [
        Figure("pings a second", rate, "/s", at_least=12_000),
        Figure("server CPU for a ping", cpu, "us"),
    ]


async def _wrk(server: BenchServer, seconds: int) -> float:
    script = server.folder / "ping.lua"
    script.write_text(f"wrk.method = 'POST'\nwrk.body = '{PING.decode()}'\n")
    process = await asyncio.create_subprocess_exec(
        "wrk",
        "-t1",
        "-c16",
        f"-d{seconds}",
        "-s",
        str(script),
        f"{server.address}/ping",
        stdout=asyncio.subprocess.PIPE,
    )
    output = (await process.communicate())[0].decode()
    if "Non-2xx" in output:
        raise RuntimeError(output)
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert found is not None, output
    return float(found.group(1))


async def _own_loop(server: BenchServer, seconds: int) -> float:
    host, port = server.address.removeprefix("http://").split(":")
    request = b"POST /ping HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(PING), PING)
    ends, count = time.perf_counter() + seconds, 0

    async def one() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection(host, port)
        while time.perf_counter() < ends:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length is not None
            body = await reader.readexactly(int(length.group(1)))
            assert b'"0"' in body
            count += 1
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(one() for _ in range(16)))
    return count / seconds


async def tree_stop(quick: bool) -> list[Figure]:
    """A worker and 100 children, all deaf to SIGTERM: how long beyond the grace the stop takes."""
    beyond = []
    async with BenchServer([TREE]) as server:
        for _ in range(3 if quick else 10):
            await server.must("/start", channel_name="tree", graph_name="tree")
            began = time.perf_counter()
            await server.must("/stop", channel_name="tree")
            beyond.append((time.perf_counter() - began - GRACE) * 1e3)
        processes = [e["processes"] for e in server.events if e["event"] == "channel.gone"]
    return [
        Figure("processes in the tree", min(processes), ""),
        Figure("stop of the tree beyond the grace, p50", percentile(beyond, 0.5), "ms"),
        Figure("stop of the tree beyond the grace, slowest", max(beyond), "ms", at_most=50),
    ]


async def shutdown(quick: bool) -> list[Figure]:
    """SIGTERM to a server with many channels: time until its process has ended."""
    count = 100 if quick else 500
    async with (
        BenchServer(WORKERS_MAX=str(count), WORKER_START_TIMEOUT_SECONDS="60") as server,
        channels(server, count, "echo", timeout=-1),
    ):
        began = time.perf_counter()
        await server.stop()
        took = time.perf_counter() - began
    return [Figure(f"{count} channels stopped, server ended", took, "s", at_most=GRACE + 1)]


SCENARIOS: dict[str, Callable[[bool], Awaitable[list[Figure]]]] = {
    "start": start_latency,
    "rate": start_rate,
    "idle": idle,
    "ping": ping,
    "tree": tree_stop,
    "shutdown": shutdown,
    **streams.SCENARIOS,
    **dialects.SCENARIOS,
    **restart.SCENARIOS,
    **survival.SCENARIOS,
}
