"""Who carries which conversation: one session for each channel, one channel for each session, and none of another's."""

import asyncio

import pytest

from tests.harness import Agentd
from tests.harness.talk import MUTE, TALKER, ask, body, in_channel, stream


@pytest.fixture
async def server(agentd: Agentd) -> Agentd:
    return await agentd.start(graphs=[TALKER, MUTE])


async def test_nobody_else_asks_the_worker_of_a_single_turn(server: Agentd) -> None:
    async with stream(server, body(["say", "on"], ["paced", [20, 0.02]])) as answer:
        channel = (await answer.until("turn"))["channel"]
        await answer.until("text")
        other = await server.post(f"/channels/{channel}/turns", in_channel(["say", "x"]))
        assert (other["status"], other["error"]["cause"]) == (409, "session_busy")
        found = await answer.all()
    assert found[-1]["event"] == "final"


async def test_a_session_s_channel_is_asked_by_its_name_too(server: Agentd) -> None:
    first = await ask(server, ["pid", None], session="s")
    named, unnamed = await asyncio.gather(
        server.post(f"/channels/{first['channel']}/turns", in_channel(["pid", None])),
        ask(server, ["pid", None], session="s"),
    )
    assert named["text"] == unnamed["text"] == first["text"]


async def test_a_session_is_asked_while_its_worker_starts(server: Agentd) -> None:
    answers = await asyncio.gather(*(ask(server, ["pid", None], session="s") for _ in range(4)))
    assert len({answer["text"] for answer in answers}) == 1


async def test_a_session_with_a_worker_gets_no_second_one(server: Agentd) -> None:
    await ask(server, ["say", "x"], session="s")
    answer = await server.post("/channels", {"graph": "talker", "session": "s", "name": "mine"})
    assert (answer["status"], answer["error"]["cause"]) == (409, "channel_exists")


async def test_a_channel_that_was_started_for_a_session_is_the_session_s(server: Agentd) -> None:
    channel = await server.post("/channels", {"graph": "talker", "session": "s", "user": "u", "name": "mine"})
    answer = await ask(server, ["pid", None], session="s", user="u")
    assert (answer["text"], answer["channel"]) == (str(channel["pid"]), "mine")
    assert (await ask(server, ["pid", None], session="s"))["text"] != answer["text"], "of another user"


async def test_a_channel_of_the_same_name_later_inherits_nothing(server: Agentd) -> None:
    await server.begin("foo", "talker")
    await server.post("/channels/foo/turns", in_channel(["remember", {"secret": 1}]))
    await server.end("foo")
    await server.begin("foo", "talker")
    answer = await server.post("/channels/foo/turns", in_channel(["recall", "secret"], ["history", None]))
    assert answer["text"] == "None"
    refused = await ask(server, ["history", None], session="channel:foo")
    assert (refused["status"], refused["error"]["cause"]) == (400, "body_invalid")
