"""What an event stream gives to its connection at once: a client without a buffer reads no half of an event."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from supervisor.http.dialects.docsgpt import PROGRAM
from supervisor.http.sse import EventStream, Pace, _bursts
from supervisor.http.streams import Streams


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], []),
        ([5], [[5]]),
        ([10], [[10]]),
        ([11], [[11]]),
        ([5, 5], [[5, 5]]),
        ([5, 6], [[5], [6]]),
        ([11, 1, 11], [[11], [1], [11]]),
        ([1] * 25, [[1] * 10, [1] * 10, [1] * 5]),
    ],
)
def test_bursts(sizes: list[int], groups: list[list[int]]) -> None:
    found = list(_bursts([b"x" * size for size in sizes], 10))
    assert [[len(event) for event in group] for group in found] == groups


class Noting:
    """A transport that takes down what is written at once."""

    def __init__(self, real: Any, writes: list[tuple[float, bytes]]) -> None:
        self.real = real
        self.writes = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def write(self, data: bytes) -> None:
        self.writes.append((asyncio.get_running_loop().time(), data))
        self.real.write(data)


async def streamed(handler: Any) -> tuple[bytes, list[bytes]]:
    """The head and the chunks that a handler answers with."""
    app = web.Application()
    app.add_routes([web.get("/", handler)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        source, sink = await asyncio.open_connection(host, port)
        sink.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await source.readuntil(b"\r\n\r\n")
        found = []
        while size := int(await source.readline(), 16):
            found.append(await source.readexactly(size))
            await source.readexactly(2)
        sink.close()
        await sink.wait_closed()
    finally:
        await runner.cleanup()
    return head, found


@pytest.mark.parametrize("pace", [None, Pace(32 * 1024, 0.01)])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_write_has_whole_events_and_is_bounded(pace: Pace | None, at_once: bool) -> None:
    events = [b"data: %b\n\n" % (b"x" * (size * 16_000 // 40)) for size in range(1, 41)]
    writes: list[tuple[float, bytes]] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        stream = EventStream(request, Streams(), cache="no-store", pace=pace)
        await stream.open()
        stream._transport = Noting(stream._transport, writes)  # type: ignore[assignment]
        for some in [events] if at_once else [[event] for event in events]:
            await stream.send(some)
        await stream.close()
        return stream.response

    head, found = await streamed(serve)
    assert b"Cache-Control: no-store" in head
    assert found == events, "each is a chunk of its own"
    for _, data in writes:
        assert data.endswith(b"\n\n\r\n")
        assert data[data.index(b"\r\n") + 2 :].startswith(b"data: ")
    if pace is None:
        assert len(writes) == (1 if at_once else len(events))
        return
    # In no stretch of time is more written than the pace allows; a chunk has a head of its own besides.
    for number, (began, _) in enumerate(writes):
        soon = [len(data) for at, data in writes[number:] if at < began + pace.seconds / 2]
        assert sum(soon) <= 2 * pace.size + 1024
    assert writes[-1][0] - writes[0][0] > pace.seconds * (sum(map(len, events)) // pace.size - 1)


async def test_what_is_said_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.http.sse.KEEP_ALIVE_SECONDS", 0.05)
    silence: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Heard(Noting):
        def write(self, data: bytes) -> None:
            super().write(data)
            if len(self.writes) == 2:
                silence.set_result(None)

    async def serve(request: web.Request) -> web.StreamResponse:
        stream = EventStream(request, Streams(), PROGRAM.keep_alive, cache=PROGRAM.cache, pace=PROGRAM.pace)
        await stream.open()
        stream._transport = Heard(stream._transport, [])  # type: ignore[assignment]
        await silence
        await stream.close()
        return stream.response

    _, found = await streamed(serve)
    assert found[:2] == [b"\n", b"\n"]
    assert set(found) == {b"\n"}
