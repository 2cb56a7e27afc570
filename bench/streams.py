"""Streams: how many events a second reach their readers, and how late."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from bench.figures import Figure, percentile
from bench.server import BenchServer

STREAM: Final = {
    "name": "stream",
    "graph": {"nodes": [{"type": "extension", "name": "stream", "addon": "bench_stream"}]},
}
EVENT: Final = b"event: text\n"
END: Final = b"\r\n0\r\n\r\n"


class Reader(asyncio.Protocol):
    """A client as cheap as can be: it counts the marks of events in what comes, or gives it to `taken`."""

    def __init__(
        self, request: bytes, taken: Callable[[bytes], None] | None = None, *, mark: bytes = EVENT, kept: int = 0
    ) -> None:
        self.events = 0
        self.bytes = 0
        self.asked = self.first = self.last = 0.0
        self.end: deque[bytes] = deque(maxlen=kept)  # what came last
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._request = request
        self._tail = b""
        self._taken = taken
        self._mark = mark

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = transport  # type: ignore[assignment]
        self.asked = time.perf_counter()
        self.transport.write(self._request)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        """Count."""
        now = time.perf_counter()
        if not self.bytes and not data.startswith(b"HTTP/1.1 200 "):
            self.over.set_exception(RuntimeError(f"refused: {data!r}"))
            return
        if self._taken is not None:
            self._taken(data)
        seen = self._tail + data
        count = seen.count(self._mark)
        if count and not self.events:
            self.first = now
        self.events += count
        self.bytes += len(data)
        self.end.append(data)
        self._tail = seen[1 - len(self._mark) :]
        if seen.endswith(END) and not self.over.done():
            self.last = now
            self.over.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        """It must not be before the end."""
        if not self.over.done():
            self.over.set_exception(ConnectionError("a stream broke off"))


def request(path: str = "/turns", **context: Any) -> bytes:
    """A turn of the graph `stream`, streamed."""
    body = {"message": "go", "stream": True, "context": context}
    if path == "/turns":
        body["graph"] = "stream"
    return post(path, body)


def post(path: str, body: Any, headers: str = "") -> bytes:
    """A request as it is on the wire; `headers` are lines with their ends."""
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data


async def connect(server: BenchServer, ask: bytes, taken: Callable[[bytes], None] | None = None, **more: Any) -> Reader:
    """A reader that has asked; `more` is for its constructor."""
    host, port = server.address.removeprefix("http://").split(":")
    reader = Reader(ask, taken, **more)
    await asyncio.get_running_loop().create_connection(lambda: reader, host, int(port))
    return reader


async def throughput(server: BenchServer, streams: int, count: int) -> tuple[float, float]:
    """Events a second over all streams of `count` events each, and the server's CPU in microseconds per event."""
    for number in range(streams):
        await server.must("/start", channel_name=f"s{number}", graph_name="stream", timeout=-1)
    used = server.cpu_seconds()
    readers = [await connect(server, request(f"/channels/s{number}/turns", count=count)) for number in range(streams)]
    await asyncio.gather(*(reader.over for reader in readers))
    cpu = server.cpu_seconds() - used
    for reader in readers:
        if reader.events != count:
            raise RuntimeError(f"{reader.events} events of {count} came")
        reader.transport.close()  # type: ignore[union-attr]
    seconds = max(reader.last for reader in readers) - min(reader.first for reader in readers)
    for number in range(streams):
        await server.must("/stop", channel_name=f"s{number}")
    return streams * count / seconds, cpu / (streams * count) * 1e6


async def stream_rate(quick: bool) -> list[Figure]:
    """Small events as fast as agents can say them, each its own chunk: one stream, and fifty."""
    figures = []
    async with BenchServer(graphs=[STREAM]) as server:
        for streams, count, promise in ((1, 200_000, 60_000), (50, 20_000, 100_000)):
            await throughput(server, streams, 1000)
            rate, cpu = await throughput(server, streams, count // (10 if quick else 1))
            figures += [
                Figure(f"events/s, {streams} stream{'s' * (streams > 1)}", rate, "/s", at_least=promise),
                Figure("  CPU of the server for one", cpu, "us"),
            ]
    return figures


async def stream_latency(quick: bool) -> list[Figure]:
    """From the agent's word to the reader's ear: 200 channels, each 50 events a second."""
    channels, rate, seconds = (40 if quick else 200), 50, (3 if quick else 15)
    late: list[float] = []

    def taken(data: bytes) -> None:
        now = time.monotonic_ns()
        late.extend((now - int(part.partition(b'"')[0])) / 1e6 for part in data.split(b'"text":"')[1:])

    async with BenchServer(graphs=[STREAM], WORKERS_MAX="300") as server:
        for number in range(channels):
            await server.must("/start", channel_name=f"s{number}", graph_name="stream", timeout=-1)
        used, began = server.cpu_seconds(), time.perf_counter()
        readers = []
        for number in range(channels):
            ask = request(
                f"/channels/s{number}/turns", count=rate * seconds, rate=rate, delay=number % 20 / (20 * rate)
            )
            readers.append(await connect(server, ask, taken))
        await asyncio.gather(*(reader.over for reader in readers))
        cpu = (server.cpu_seconds() - used) / (time.perf_counter() - began) * 100
        for reader in readers:
            reader.transport.close()  # type: ignore[union-attr]
    if len(late) != channels * rate * seconds:
        raise RuntimeError(f"{len(late)} events of {channels * rate * seconds} came")
    return [
        Figure(f"latency of an event, {channels} channels, p50", percentile(late, 0.50), "ms", at_most=0.3),
        Figure(f"latency of an event, {channels} channels, p99", percentile(late, 0.99), "ms", at_most=2),
        Figure("  CPU of the server", cpu, "%"),
    ]


async def first_event(quick: bool) -> list[Figure]:
    """From the request of a new session to its first event: a cold channel, a warm zygote."""
    took = []
    async with BenchServer(graphs=[STREAM]) as server:
        for number in range(20 + (100 if quick else 300)):
            came = asyncio.get_running_loop().create_future()
            began = time.perf_counter()

            def taken(data: bytes, came: asyncio.Future[float] = came) -> None:
                if EVENT in data and not came.done():
                    came.set_result(time.perf_counter())

            reader = await connect(server, request(count=1), taken)
            await reader.over
            if number >= 20:
                took.append((came.result() - began) * 1e3)
            reader.transport.close()  # type: ignore[union-attr]
    return [
        Figure("first event of a new session, p50", percentile(took, 0.50), "ms", at_most=12),
        Figure("first event of a new session, p99", percentile(took, 0.99), "ms"),
    ]


async def stalled_readers(quick: bool) -> list[Figure]:
    """Fifty readers of endless streams that stop reading: the server's memory, and what others notice of it."""
    stalled = 10 if quick else 50
    async with BenchServer(graphs=[STREAM], AGENTD_TURN_SECONDS="120") as server:
        for number in range(stalled + 1):
            await server.must("/start", channel_name=f"s{number}", graph_name="stream", timeout=-1)
        readers = []
        for number in range(stalled):
            reader = await connect(server, request(f"/channels/s{number}/turns", count=10**9))
            reader.transport.pause_reading()  # type: ignore[union-attr]
            readers.append(reader)
        for _ in range(60):  # until every buffer on the way is full, and nobody has anything to do any more
            used = server.cpu_seconds()
            await asyncio.sleep(1)
            if server.cpu_seconds() - used < 0.02:
                break
        full = server.rss_mb()
        used, began = server.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(5 if quick else 30)
        cpu = (server.cpu_seconds() - used) / (time.perf_counter() - began) * 100
        grown = server.rss_mb() - full
        for reader in readers:
            reader.over.cancel()
            reader.transport.abort()  # type: ignore[union-attr]
    return [
        Figure(f"memory with {stalled} stalled readers", full, "MB"),
        Figure("  grown since they stalled", grown, "MB", at_most=2),
        Figure("  CPU of the server meanwhile", cpu, "%"),
    ]


SCENARIOS: Final = {
    "streams": stream_rate,
    "latency": stream_latency,
    "first": first_event,
    "stalled": stalled_readers,
}
