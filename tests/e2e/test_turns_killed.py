"""Whoever is killed, and whenever: what was said before is there, in order, and then one ending with its cause."""

import os
import signal
from typing import Any

import pytest

from tests.harness import Agentd
from tests.harness.talk import (
    TALKER,
    Event,
    ask,
    client,
    ended_life,
    faults,
    in_channel,
    recorded,
    stalled,
    stream,
    turn_rows,
)

KINDS = ("single", "session", "named")
OWNERS = pytest.mark.parametrize("owner", KINDS)

# Six events of each round, of every kind there is.
ROUND: list[list[Any]] = [
    ["say", "é "],
    ["think", "hm "],
    ["call", {"a": 1, "b": 2}],
    ["source", {"title": "t", "text": "x", "source": "s"}],
]
KIND_OF_EVENT = ["text", "thought", "tool_call", "tool_result", "text", "source"]
ROUNDS = 5
ROOM = 1024 * 1024


@pytest.fixture
async def server(agentd: Agentd) -> Agentd:
    return await agentd.start(graphs=[TALKER])


def script_of(count: int) -> list[list[Any]]:
    """A script whose first `count` events are those of ROUND again and again, and which waits then for ever."""
    script: list[list[Any]] = []
    while count > 0:
        for step, size in zip(ROUND, (1, 1, 3, 1), strict=True):
            if count >= size:
                script.append(step)
            elif count > 0:  # a part of a call: it is said by hand
                script.append(["part", count])
            count -= size
    return [*script, ["wait", None]]


async def begin(server: Agentd, owner: str) -> tuple[str, dict[str, Any]]:
    """Where to ask, and what besides the script."""
    if owner == "named":
        answer = await server.post("/channels", {"graph": "talker", "name": "lobby"})
        assert answer["status"] == 201, answer
        return "/channels/lobby/turns", {}
    return "/turns", {"graph": "talker", **({"session": "s"} if owner == "session" else {})}


async def worker_of(server: Agentd, name: str) -> tuple[int, str]:
    channel = await server.channel(name)
    return channel["pid"], channel["id"]


@OWNERS
async def test_a_worker_killed_at_any_event_leaves_the_events_before_and_one_ending(server: Agentd, owner: str) -> None:
    told: dict[str, list[Event]] = {}
    for count in range(len(KIND_OF_EVENT) * ROUNDS + 1):
        path, more = await begin(server, owner)
        async with stream(server, {**in_channel(*script_of(count)), **more}, path) as answer:
            found = [await answer.next() for _ in range(count + 1)]
            first = found[0]
            pid, channel_id = await worker_of(server, first["channel"])
            os.kill(pid, signal.SIGKILL)
            found += await answer.all()
        kinds = (KIND_OF_EVENT * ROUNDS)[:count]
        assert [event["event"] for event in found] == ["turn", *kinds, "error"], count
        last = found[-1]
        assert (last["cause"], "signal 9" in last["message"]) == ("crashed", True)
        life = await ended_life(server, channel_id)
        assert (life["cause"], life["status"], life["turns"], life["pid"]) == ("crashed", -9, 1, pid)
        told[first["turn"]] = found
    assert faults(server) == []
    assert await server.stop() == 0
    recorded = turn_rows(server)
    assert recorded.keys() == told.keys()
    for turn, found in told.items():
        row, last = recorded[turn], found[-1]
        assert (row["cause"], row["detail"]) == ("crashed", last["message"])
        assert row["text"] == "".join(event["text"] for event in found if event["event"] == "text")
        assert row["thoughts"] == "".join(event["text"] for event in found if event["event"] == "thought")
        assert row["ended_at"] >= row["begun_at"]


@OWNERS
async def test_a_worker_killed_while_it_talks_leaves_a_beginning_without_a_hole(server: Agentd, owner: str) -> None:
    for count in (1, 2, 100, 1500, 4000):
        path, more = await begin(server, owner)
        async with stream(server, {**in_channel(["numbered", [10**9, 40]]), **more}, path) as answer:
            found = [await answer.next() for _ in range(count + 1)]
            pid, channel_id = await worker_of(server, found[0]["channel"])
            os.kill(pid, signal.SIGKILL)
            found += await answer.all()
        texts = [int(event["text"].rstrip(".")) for event in found if event["event"] == "text"]
        assert texts == list(range(len(texts)))
        assert len(texts) == len(found) - 2
        assert (found[-1]["event"], found[-1]["cause"]) == ("error", "crashed")
        assert (await ended_life(server, channel_id))["status"] == -9
        row = turn_rows(server)[found[0]["turn"]]
        assert (row["cause"], row["text"]) == ("crashed", "".join(e["text"] for e in found if e["event"] == "text"))


@OWNERS
async def test_a_worker_killed_after_its_last_word_while_the_reader_is_slow_has_ended_well(
    server: Agentd, owner: str
) -> None:
    path, more = await begin(server, owner)
    # Much for the reader's window and all the buffers between, little enough for the worker's: it is done at once.
    async with client(server) as reader:
        await reader.ask({**in_channel(["numbered", [900, 900]]), **more}, path)
        await reader.head()
        first = await reader.event()
        assert first is not None
        if owner != "single":  # whose worker goes with its turn
            channel = await server.channel(first["channel"])
            await stalled(server, channel["pid"])
            os.kill(channel["pid"], signal.SIGKILL)
            assert (await ended_life(server, channel["id"]))["status"] == -9
        found = await reader.all()
    assert [int(event["text"].rstrip(".")) for event in found[:-1]] == list(range(900))
    assert (found[-1]["event"], found[-1]["cause"]) == ("final", "completed")
    await server.stop()
    assert turn_rows(server)[first["turn"]]["cause"] == "completed"


@OWNERS
async def test_a_worker_killed_while_it_waits_for_a_slow_reader(server: Agentd, owner: str) -> None:
    path, more = await begin(server, owner)
    async with client(server) as reader:
        await reader.ask({**in_channel(["numbered", [10**9, 1000]]), **more}, path)
        await reader.head()
        first = await reader.event()
        assert first is not None
        channel = await server.channel(first["channel"])
        await stalled(server, channel["pid"])
        os.kill(channel["pid"], signal.SIGKILL)
        life = await ended_life(server, channel["id"])
        assert (life["cause"], life["status"]) == ("crashed", -9)
        found = await reader.all()
    texts = [int(event["text"].rstrip(".")) for event in found[:-1]]
    assert texts == list(range(len(texts)))
    assert (found[-1]["event"], found[-1]["cause"]) == ("error", "crashed")
    await server.stop()
    row = turn_rows(server)[first["turn"]]
    kept = row["text"].partition("… [cut: ")[0]
    said = "".join(event["text"] for event in found[:-1])
    assert (row["cause"], kept) == ("crashed", said[: len(kept)])
    assert len(kept) >= min(len(said), ROOM), "what is recorded of a long answer has its bounds"


@OWNERS
async def test_a_reader_who_leaves_after_the_worker_died_does_not_change_why(server: Agentd, owner: str) -> None:
    path, more = await begin(server, owner)
    async with client(server) as reader:
        await reader.ask({**in_channel(["numbered", [10**9, 1000]]), **more}, path)
        await reader.head()
        first = await reader.event()
        assert first is not None
        channel = await server.channel(first["channel"])
        await stalled(server, channel["pid"])
        os.kill(channel["pid"], signal.SIGKILL)
        await ended_life(server, channel["id"])
        reader.vanish()
    assert (await recorded(server, first["turn"]))["cause"] == "crashed"


async def test_a_session_goes_on_after_each_of_many_deaths(server: Agentd) -> None:
    for number in range(10):
        answer = await ask(server, ["remember", {"n": number}], session="s")
        assert (answer["status"], answer["text"]) == (200, "remembered")
        [channel] = (await server.get("/channels"))["channels"]
        os.kill(channel["pid"], signal.SIGKILL)
        await server.event("channel.gone", lambda event, wanted=channel["id"]: event["id"] == wanted)
        answer = await ask(server, ["recall", "n"], session="s")
        assert (answer["status"], answer["text"]) == (200, str(number))


async def test_a_worker_killed_between_two_turns_costs_one_turn_at_most(server: Agentd) -> None:
    for _ in range(20):
        pid = int((await ask(server, ["pid", None], session="s"))["text"])
        os.kill(pid, signal.SIGKILL)
        answer = await ask(server, ["say", "x"], session="s")
        if answer["status"] != 200:
            assert (answer["status"], answer["error"]["cause"]) == (502, "crashed")
            answer = await ask(server, ["say", "x"], session="s")
            assert answer["status"] == 200, answer


@OWNERS
async def test_a_killed_server_leaves_the_turn_to_its_successor(agentd: Agentd, successor: Agentd, owner: str) -> None:
    await agentd.start(graphs=[TALKER])
    if owner == "session":
        await ask(agentd, ["remember", {"name": "Ada"}], session="s")
    path, more = await begin(agentd, owner)
    async with stream(agentd, {**in_channel(["say", "on"], ["wait", None]), **more}, path) as answer:
        first = await answer.next()
        await answer.until("text")
        channel = await agentd.channel(first["channel"])
        await agentd.kill()
    await successor.start()
    row = turn_rows(successor)[first["turn"]]
    assert (row["cause"], row["text"]) == (None, None)
    now = await successor.channel(channel["name"])
    assert (now["id"], now["pid"], now["turn"]["id"]) == (channel["id"], channel["pid"], first["turn"])
    ended = await successor.request("DELETE", f"/channels/{channel['name']}/turns/{first['turn']}")
    assert ended["cause"] == "turn_cancelled"
    row = turn_rows(successor)[first["turn"]]
    assert (row["cause"], row["text"]) == ("turn_cancelled", "on")
    if owner == "single":
        assert (await successor.gone(channel["name"]))["cause"] == "turn_ended"
    if owner == "session":
        answer_again = await ask(successor, ["recall", "name"], session="s")
        assert answer_again["text"] == "Ada"
        assert (await successor.channel(channel["name"]))["pid"] == channel["pid"]
    assert faults(successor) == []
