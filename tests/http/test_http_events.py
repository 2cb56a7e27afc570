"""Events by server-sent events: resume with every id, gaps, filters, readers that are slow or many, and the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from supervisor.channels.hearing import EVENTS
from supervisor.http.events import PORTION, ChannelEvent, Wanted, parts
from tests.harness.talk import Event, Stream

LOBBY = "/channels/lobby/events"


@asynccontextmanager
async def follow(house: Any, path: str = LOBBY, **headers: str) -> AsyncIterator[Stream]:
    async with house.session.get(f"{house.base}{path}", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        yield Stream(response)


async def ids(stream: Stream, count: int) -> list[str]:
    return [(await stream.next())["place"] for _ in range(count)]


async def speaks(house: Any, *numbers: int) -> Any:
    """A channel whose worker has said these frames."""
    channel = house.table.channels.get("lobby") or await house.start()
    for number in numbers:
        channel.feed.publish("text", {"turn": "t", "type": "text", "text": f"{number}"}, number)
    return channel


def test_every_type_of_event_can_be_asked_for() -> None:
    assert set(get_args(ChannelEvent)) == {*EVENTS, "ready", "state", "signal", "bye", "gap", "ended"}


@pytest.mark.parametrize(
    ("types", "values", "kind", "data", "taken"),
    [
        ((), {}, "text", b"{}", True),
        (("text",), {}, "text", b"{}", True),
        (("final",), {}, "text", b"{}", False),
        (("final",), {}, "gap", b"{}", True),
        (("final",), {"turn": "t"}, "ended", b"{}", True),
        ((), {"turn": "t"}, "text", b'{"turn":"t"}', True),
        ((), {"turn": "t"}, "text", b'{"turn":"u"}', False),
        ((), {"turn": "t"}, "state", b"{}", False),
        ((), {"channel": "a", "graph": "g"}, "gone", b'{"channel":"a","graph":"h"}', False),
        ((), {"channel": '"\\u00e4'}, "gone", b'{"channel":"\\"\\\\u00e4"}', True),
    ],
)
def test_what_is_wanted(types: Any, values: Any, kind: str, data: bytes, taken: bool) -> None:
    event = b"id: c:1\nevent: %b\ndata: %b\n\n" % (kind.encode(), data)
    assert parts(event) == (kind, data)
    assert Wanted(frozenset(types), values).takes(event) is taken


async def test_what_is_kept_then_what_comes_then_the_end(house: Any) -> None:
    channel = await speaks(house, 1, 2)
    async with follow(house) as stream:
        assert await stream.next() == {"event": "text", "place": "c0:1", "turn": "t", "type": "text", "text": "1"}
        assert await ids(stream, 1) == ["c0:2"]
        await speaks(house, 3)
        assert await ids(stream, 1) == ["c0:3"]
        channel.feed.publish("state", {"node": "a"}, 5)
        assert (await stream.next())["event"] == "state"
        await house.ask("DELETE", "/channels/lobby")
        [last] = await stream.all()
        assert (last["event"], last["cause"], last["place"]) == ("ended", "stopped", "c0:5.1")
    assert (await house.get(LOBBY)).status == 404


@pytest.mark.parametrize("known", range(7))
@pytest.mark.parametrize("by_header", [False, True])
async def test_going_on_behind_every_id(house: Any, known: int, by_header: bool) -> None:
    await speaks(house, *range(1, 7))
    places = [f"c0:{number}" for number in range(7)]
    path = LOBBY if by_header else f"{LOBBY}?after={places[known]}"
    headers = {"Last-Event-ID": places[known]} if by_header else {}
    async with follow(house, path, **headers) as stream:
        assert await ids(stream, 6 - known) == places[known + 1 :]
        await speaks(house, 7)
        assert await ids(stream, 1) == ["c0:7"]


async def test_the_header_counts_more_than_the_query(house: Any) -> None:
    """A browser connects again by the same address, with what it has got in the header."""
    await speaks(house, 1, 2, 3)
    async with follow(house, f"{LOBBY}?after=c0:1", **{"Last-Event-ID": "c0:2"}) as stream:
        assert await ids(stream, 1) == ["c0:3"]


async def test_only_what_is_new(house: Any) -> None:
    await speaks(house, 1, 2)
    async with follow(house, f"{LOBBY}?after=now") as stream:
        await speaks(house, 3)
        assert await ids(stream, 1) == ["c0:3"]


@pytest.mark.parametrize("known", [None, "c0:0", "c0:1", "c0:4"])
async def test_what_is_no_longer_kept_is_told(house: Any, known: str | None) -> None:
    await speaks(house, *range(1, 13))  # of which eight are kept
    async with follow(house, LOBBY if known is None else f"{LOBBY}?after={known}") as stream:
        if known != "c0:4":
            gap = await stream.next()
            assert gap == {"event": "gap", "place": "c0:4", "from": known or "c0:0", "to": "c0:4"}
        assert await ids(stream, 8) == [f"c0:{number}" for number in range(5, 13)]


@pytest.mark.parametrize("known", ["x", "c1:1", "c0:99", "c0:-1", "c0:1.x", ":", "日本:1", "c0:1 ", "\udcff" * 300])
async def test_an_id_of_another_life(house: Any, known: str) -> None:
    await speaks(house, 1, 2)
    async with follow(house, f"{LOBBY}?after={quote(known.encode(errors='surrogateescape'))}") as stream:
        gap = await stream.next()
        assert (gap["event"], gap["place"], gap["to"]) == ("gap", "c0:0", "c0:0")
        assert known.startswith("\udcff") or gap["from"] == known
        assert await ids(stream, 2) == ["c0:1", "c0:2"]
    await speaks(house, *range(3, 11))
    async with follow(house, **{"Last-Event-ID": "c9:7"}) as stream:
        assert await stream.next() == {"event": "gap", "place": "c0:2", "from": "c9:7", "to": "c0:2"}
        assert await ids(stream, 8) == [f"c0:{number}" for number in range(3, 11)]


async def test_a_new_life_of_the_name_has_ids_of_its_own(house: Any) -> None:
    await speaks(house, 1)
    async with follow(house) as stream:
        [place] = await ids(stream, 1)
    await house.ask("DELETE", "/channels/lobby")
    await speaks(house, 1)
    async with follow(house, **{"Last-Event-ID": place}) as stream:
        assert await stream.next() == {"event": "gap", "place": "c1:0", "from": "c0:1", "to": "c1:0"}
        assert await ids(stream, 1) == ["c1:1"]


async def test_only_some_types(house: Any) -> None:
    channel = await speaks(house, 1)
    for number, kind in enumerate(("thought", "usage", "text", "final"), 2):
        channel.feed.publish(kind, {"turn": "t", "type": kind}, number)
    async with follow(house, f"{LOBBY}?types=usage,final") as stream:
        assert [(await stream.next())["event"] for _ in range(2)] == ["usage", "final"]
        await house.ask("DELETE", "/channels/lobby")
        assert [event["event"] for event in await stream.all()] == ["ended"]


async def test_only_one_turn(house: Any) -> None:
    channel = await house.start()
    for number, (kind, turn) in enumerate(
        [("text", "a"), ("text", "b"), ("state", None), ("final", "a"), ("text", "b"), ("error", "b"), ("text", "c")], 1
    ):
        channel.feed.publish(kind, {"turn": turn}, number)
    for turn, expected in (("a", ["c0:1", "c0:4"]), ("b", ["c0:2", "c0:5", "c0:6"]), ("c", ["c0:7"])):
        async with follow(house, f"{LOBBY}?turn={turn}") as stream:
            assert [event["place"] for event in await stream.all()] == expected
    async with follow(house, f"{LOBBY}?turn=b&types=text&after=c0:2") as stream:
        assert [event["place"] for event in await stream.all()] == ["c0:5"]
    answer = await house.get(f"{LOBBY}?turn=d")
    assert (answer.status, answer.body["error"]["cause"]) == (404, "turn_unknown")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (f"{LOBBY}?types=text,speech", "speech"),
        (f"{LOBBY}?type=text", "type"),
        (f"{LOBBY}?after=c0:1&after=c0:2", "after"),
        (f"{LOBBY}?channel=lobby", "channel"),
        ("/events?types=text", "text"),
        ("/events?turn=t", "turn"),
    ],
)
async def test_queries_that_are_refused(house: Any, path: str, named: str) -> None:
    await house.start()
    answer = await house.get(path)
    assert (answer.status, answer.body["error"]["cause"]) == (400, "body_invalid")
    assert named in answer.body["error"]["detail"]


async def test_heads(house: Any) -> None:
    await house.start()
    for path in (LOBBY, "/events"):
        head = await house.ask("HEAD", path)
        assert (head.status, head.content) == (200, b"")
        assert head.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert (await house.ask("HEAD", "/channels/nobody/events")).status == 404


async def test_many_watchers_see_the_same(house: Any) -> None:
    channel = await speaks(house, 1)
    async with follow(house) as one, follow(house, f"{LOBBY}?types=text") as two, follow(house) as gone:
        await ids(gone, 1)
        gone.response.close()
        await speaks(house, 2, 3)
        channel.feed.publish("state", {}, 4)
        await house.ask("DELETE", "/channels/lobby")
        found = [await stream.all() for stream in (one, two)]
    assert [event["place"] for event in found[0]] == ["c0:1", "c0:2", "c0:3", "c0:4", "c0:4.1"]
    assert [event["place"] for event in found[1]] == ["c0:1", "c0:2", "c0:3", "c0:4.1"]


async def test_the_shutdown_ends_all_streams(house: Any) -> None:
    await speaks(house, 1)
    async with follow(house) as stream, follow(house, "/events") as lives:
        await ids(stream, 1)
        down = asyncio.create_task(house.runner.cleanup())
        house.lives.publish("gone", {"channel": "lobby"}, 1)
        assert await stream.all() == []
        assert [event["event"] for event in await lives.all()] == ["gone"]
        await down


async def test_a_watcher_that_hangs_up_is_noticed(house: Any) -> None:
    await house.start()
    before = len(asyncio.all_tasks())
    async with follow(house):
        assert len(asyncio.all_tasks()) > before
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.01)


async def test_silence_is_filled_with_comments(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.http.sse.KEEP_ALIVE_SECONDS", 0.01)
    await house.start()
    async with follow(house) as stream:
        assert await stream.response.content.readline() == b": keep-alive\n"


async def test_a_slow_reader_gets_gaps_and_holds_nothing(house: Any) -> None:
    channel = await house.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port, limit=4096)
    writer.write(b"GET /channels/lobby/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    here = writer.get_extra_info("sockname")
    transports = [connection.transport for connection in house.runner.server.connections]
    [transport] = [one for one in transports if one and one.get_extra_info("peername") == here]
    waiting = 0
    for number in range(1, 2001):
        channel.feed.publish("text", {"turn": "t", "text": "x" * 20_000}, number)
        await asyncio.sleep(0)
        waiting = max(waiting, transport.get_write_buffer_size())
    assert waiting < 2 * PORTION + 100_000
    await house.ask("DELETE", "/channels/lobby")
    known, gaps = 0, 0
    found: list[Event] = []
    async with asyncio.timeout(30):
        text = (await reader.read(-1)).decode()
    for block in text.split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append({"event": lines["event"], "place": lines["id"]})
        if lines["event"] == "gap":
            assert f'"from":"c0:{known}"' in lines["data"]
            gaps += 1
            known = int(lines["id"].removeprefix("c0:"))
        elif lines["event"] == "text":
            known += 1
            assert lines["id"] == f"c0:{known}"
    assert gaps > 0
    assert known == 2000
    assert found[-1]["event"] == "ended"
    writer.close()
    await writer.wait_closed()


async def test_a_reader_that_takes_nothing_is_dropped(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.http.streams.STALL_SECONDS", 0.05)
    channel = await house.start()
    before = len(asyncio.all_tasks())
    _, writer = await asyncio.open_connection("127.0.0.1", house.port, limit=1)
    writer.write(b"GET /channels/lobby/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with capture_logs() as logs:
        number = 0
        async with asyncio.timeout(20):
            while not logs:
                number += 1
                channel.feed.publish("text", {"text": "x" * 100_000}, number)
                await asyncio.sleep(0.001)
    assert logs[0]["event"] == "http.disconnected"
    writer.transport.abort()
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.01)


# ---------------------------------------------------------------------- all channels


async def test_lives(house: Any) -> None:
    def tell(number: int, kind: str, channel: str, graph: str) -> None:
        house.lives.publish(kind, {"channel": channel, "graph": graph}, number)

    tell(1, "claimed", "a", "g")
    tell(2, "claimed", "b", "h")
    async with (
        follow(house, "/events") as everything,
        follow(house, "/events?channel=a") as one,
        follow(house, "/events?graph=h&types=gone") as graph,
        follow(house, "/events?after=lives:1") as rest,
        follow(house, "/events?after=now") as new,
    ):
        assert await ids(everything, 2) == ["lives:1", "lives:2"]
        tell(3, "gone", "a", "g")
        tell(4, "gone", "b", "h")
        assert await ids(everything, 2) == ["lives:3", "lives:4"]
        assert await ids(one, 2) == ["lives:1", "lives:3"]
        assert await ids(graph, 1) == ["lives:4"]
        assert await ids(rest, 3) == ["lives:2", "lives:3", "lives:4"]
        assert await ids(new, 2) == ["lives:3", "lives:4"]
