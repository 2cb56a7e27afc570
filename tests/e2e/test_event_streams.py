"""The native API with real workers: events that are resumed and watched to the end, updates, sessions, endings."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.harness import Agentd
from tests.harness.graphs import FRIDAY
from tests.harness.server import PATIENCE
from tests.harness.talk import TALKER, Event, Stream, in_channel, stream, text_of

EVENTS = "/channels/c/events"
TURNS = "/channels/c/turns"


@pytest.fixture
async def server(agentd: Agentd) -> Agentd:
    await agentd.start(graphs=[TALKER, FRIDAY])
    answer = await agentd.post("/channels", graph="talker", name="c", timeout=-1)
    assert answer["status"] == 201
    return agentd


@asynccontextmanager
async def follow(agentd: Agentd, path: str = EVENTS, **headers: str) -> AsyncIterator[Stream]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
        session.get(agentd.address + path, headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        yield Stream(response)


async def until(found: Stream, kind: str) -> list[Event]:
    """All events up to the first of this name."""
    events = [await found.next()]
    while events[-1]["event"] != kind:
        events.append(await found.next())
    return events


async def test_a_turn_is_seen_the_same_by_its_reader_and_by_watchers(server: Agentd) -> None:
    async with follow(server) as whole, follow(server, f"{EVENTS}?after=now&types=text,final") as some:
        async with stream(server, in_channel(["count", 50], ["think", "hm"]), TURNS) as reader:
            said = (await reader.all())[1:]
        seen = [event for event in await until(whole, "final") if "turn" in event]
        assert [event["place"] for event in seen] == [event["place"] for event in said]
        assert text_of(seen) == text_of(said)
        assert [event["event"] for event in await until(some, "final")] == ["text"] * 50 + ["final"]


async def test_whoever_comes_back_misses_nothing(server: Agentd) -> None:
    """A watcher that is cut off after every single event, while the agent goes on speaking."""
    found: list[Event] = []
    place = ""
    turn = asyncio.create_task(server.post(TURNS, in_channel(["paced", [20, 0.01]])))
    while not found or found[-1]["event"] != "final":
        async with follow(server, **({"Last-Event-ID": place} if place else {})) as watcher:
            found.append(await watcher.next())
        place = found[-1]["place"]
    assert "gap" not in [event["event"] for event in found]
    places = [tuple(map(int, event["place"].rpartition(":")[2].split("."))) for event in found]
    assert places == sorted(set(places))
    assert text_of(found) == (await turn)["text"]


async def test_what_the_ring_dropped_is_told(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], AGENTD_EVENTS_KEPT="10")
    channel = await agentd.post("/channels", graph="talker", name="c")
    await agentd.post(TURNS, in_channel(["count", 100]))
    async with follow(agentd) as watcher:
        gap = await watcher.next()
        assert (gap["event"], gap["from"]) == ("gap", f"{channel['id']}:0")
        rest = await until(watcher, "final")
        assert len(rest) == 10
        assert text_of(rest) == "".join(f"{number} " for number in range(91, 100))


async def test_a_worker_that_is_killed_while_it_is_watched(server: Agentd) -> None:
    channel = await server.channel("c")
    async with follow(server, "/events?channel=c&after=now") as lives, follow(server) as watcher:
        turn = asyncio.create_task(server.post(TURNS, in_channel(["say", "One"], ["wait", None])))
        await watcher.until("text")
        shown = (await server.channel("c"))["turn"]
        assert shown["kind"] == "chat"
        os.kill(channel["pid"], signal.SIGKILL)
        failed, ended = [event for event in await watcher.all() if event["event"] in ("error", "ended")]
        assert (failed["turn"], failed["cause"]) == (shown["id"], "crashed")
        assert (ended["cause"], ended["status"]) == ("crashed", -9)
        kinds = [event["event"] for event in await until(lives, "gone")]
    assert [kind for kind in kinds if kind != "stopping"] == ["turn_begun", "turn_ended", "gone"]
    assert (await turn)["error"]["cause"] == "crashed"
    last = (await server.channel("c"))["error"]["last"]
    assert (last["id"], last["cause"], last["receipt"]["status"]) == (channel["id"], "crashed", -9)


async def test_one_turn_of_several(server: Agentd) -> None:
    async with stream(server, in_channel(["say", "a"], ["paced", [3, 0.05]]), TURNS) as first:
        one = (await first.next())["turn"]
        waiting = asyncio.create_task(server.post(TURNS, in_channel(["say", "b"])))
        async with follow(server, f"{EVENTS}?turn={one}&types=final") as watcher:
            [event] = await watcher.all()
            assert (event["event"], event["turn"]) == ("final", one)
        await first.all()
    two = (await waiting)["turn"]
    async with follow(server, f"{EVENTS}?turn={two}") as watcher:
        found = await watcher.all()
    assert (text_of(found), {event["turn"] for event in found}) == ("b", {two})
    assert (await server.get(f"{EVENTS}?turn=turn-0"))["error"]["cause"] == "turn_unknown"


async def test_a_watcher_of_a_turn_that_never_begins(server: Agentd) -> None:
    async with stream(server, in_channel(["wait", None]), TURNS) as first:
        one = (await first.next())["turn"]
        async with follow(server, f"{EVENTS}?turn={one}") as watcher:
            await server.request("DELETE", f"{TURNS}/{one}")
            assert [event["cause"] for event in await watcher.all()] == ["turn_cancelled"]
        assert (await first.until("error"))["cause"] == "turn_cancelled"


async def test_the_lives_of_channels(server: Agentd) -> None:
    async with follow(server, "/events?graph=friday") as lives, follow(server, "/events?types=gone") as ends:
        answer = await server.post("/turns", graph="friday", message="hello")
        found = await until(lives, "gone")
        kinds = [event["event"] for event in found]
        assert kinds == ["claimed", "ready", "turn_begun", "turn_ended", "stopping", "gone"]
        assert {event["channel"] for event in found} == {answer["channel"]}
        assert {event["turn"] for event in found if "turn" in event} == {answer["turn"]}
        assert (found[-1]["cause"], found[3]["cause"]) == ("turn_ended", "completed")
        assert (await ends.next())["channel"] == answer["channel"]
    async with follow(server, "/events", **{"Last-Event-ID": found[3]["place"]}) as lives:
        assert [(await lives.next())["event"] for _ in range(2)] == ["stopping", "gone"]


async def test_a_server_that_goes_down_while_it_is_watched(server: Agentd) -> None:
    async with follow(server) as watcher, follow(server, "/events?after=now") as lives:
        assert (await watcher.next())["event"] in ("state", "ready")
        down = asyncio.create_task(server.stop())
        assert (await watcher.all())[-1]["cause"] == "server_stopped"
        assert [event["event"] for event in await lives.all()] == ["stopping", "gone"]
        assert await down == 0


async def test_new_properties_of_a_live_worker(agentd: Agentd) -> None:
    await agentd.start(graphs=[FRIDAY], AGENTD_OVERRIDABLE="friday.*")
    await agentd.post("/channels", graph="friday", name="c")
    path = "/channels/c/properties"
    async with follow(agentd, f"{EVENTS}?types=state&after=now") as watcher:
        answer = await agentd.request("PATCH", path, json={"friday": {"name": "Sunday", "pace_ms": 1}})
        assert answer["status"] == 200, answer
        [node] = answer["nodes"]
        assert (node["properties"]["name"], node["properties"]["pace_ms"]) == ("Sunday", 1)
        while (await watcher.next())["properties"]["name"] != "Sunday":  # its first words may come after it is ready
            pass
    assert "Sunday" in (await agentd.post(TURNS, message="Who are you?"))["text"]
    for body, status, cause in (
        ({"friday": {"pace_ms": "fast"}}, 422, "update_refused"),
        ({"monday": {"name": "x"}}, 403, "override_refused"),
        ({"friday": 5}, 400, "body_invalid"),
    ):
        answer = await agentd.request("PATCH", path, json=body)
        assert (answer["status"], answer["error"]["cause"]) == (status, cause)
    assert (await agentd.channel("c"))["nodes"] == [node]


async def test_a_session_s_channel_that_somebody_started(server: Agentd) -> None:
    started = await server.post("/channels", graph="talker", name="mine", session="s", user="ada")
    assert (started["session"], started["user"], started["source"]) == ("s", "ada", "native")
    answer = await server.post("/turns", graph="talker", session="s", user="ada", message="hi")
    assert (answer["channel"], answer["text"]) == ("mine", "hi")
    refused = await server.post("/channels", graph="talker", session="s", user="ada")
    assert (refused["status"], refused["error"]["cause"]) == (409, "channel_exists")
    await server.request("DELETE", "/channels/mine")
    [life] = (await server.get("/ledger?channel=mine"))["lives"]
    assert (life["turns"], life["cause"], life["session"], life["user"]) == (1, "stopped", "s", "ada")
