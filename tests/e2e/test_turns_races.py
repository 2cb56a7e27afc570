"""Much at once, and everything at the worst moment: nothing mixes, nothing hangs, nothing is left over."""

import asyncio
import os
import signal
from typing import Any

import pytest

from tests.harness import Agentd
from tests.harness.talk import MUTE, TALKER, ask, body, client, faults, in_channel, stalled, stream, turn_rows

STOP_SIGN = signal.SIGSTOP


@pytest.fixture
async def server(agentd: Agentd) -> Agentd:
    return await agentd.start(graphs=[TALKER, MUTE])


async def turn_in_log(server: Agentd, after: int) -> str:
    """The turn of a request that was answered, or not, after this place in the log."""
    return (await server.event("http.request", lambda event: "turn" in event, after))["turn"]


# ---------------------------------------------------------------------- turns that wait


async def test_a_turn_that_was_given_up_while_it_waited_is_forgotten(server: Agentd) -> None:
    async with stream(server, body(["say", "on"], ["wait", None], session="s")) as first:
        began = await first.until("turn")
        await first.until("text")
        place = len(server.events)
        async with client(server) as waiting:
            await waiting.ask(body(["say", "x"], session="s"))
        turn = await turn_in_log(server, place)
        answer = await server.request("DELETE", f"/channels/{began['channel']}/turns/{turn}")
        assert (answer["status"], answer.get("cause"), answer.get("error", {}).get("cause")) == (
            404,
            None,
            "turn_unknown",
        )


async def test_a_turn_that_waited_too_long_is_forgotten(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], AGENTD_SESSION_WAIT_SECONDS="0.1")
    async with stream(agentd, body(["say", "on"], ["wait", None], session="s")) as first:
        began = await first.until("turn")
        await first.until("text")
        place = len(agentd.events)
        assert (await ask(agentd, ["say", "x"], session="s"))["error"]["cause"] == "session_busy"
        turn = await turn_in_log(agentd, place)
        answer = await agentd.request("DELETE", f"/channels/{began['channel']}/turns/{turn}")
        assert answer["status"] == 404


@pytest.mark.parametrize("store", [True, False])
async def test_the_turn_behind_one_that_ignores_its_cancellation_gets_a_new_worker(server: Agentd, store: bool) -> None:
    for _ in range(3):
        async with stream(server, body(["pid", None], ["deaf", None], session="s", store=store)) as answer:
            pid = (await answer.until("text"))["text"]
            behind = asyncio.create_task(ask(server, ["pid", None], session="s", store=store))
            await server.event("channel.ready")
        again = await behind
        assert again["status"] == 200, again
        assert again["text"] != pid


# ---------------------------------------------------------------------- the agent's state


@pytest.mark.parametrize("size", [10, 200_000])
async def test_a_first_turn_that_is_cancelled_at_once_costs_the_agent_no_memory(server: Agentd, size: int) -> None:
    await ask(server, ["remember", {"name": "Ada"}], session="s")
    [channel] = (await server.get("/channels"))["channels"]
    await server.request("DELETE", f"/channels/{channel['name']}")
    await server.gone(channel["name"])
    # The session's next worker is asked, and told at the same time that nobody wants to know any more.
    started = await server.post("/channels", {"graph": "talker", "session": "s", "name": "mine"})
    os.kill(started["pid"], signal.SIGSTOP)
    async with stream(server, {**body(["say", "x"], session="s"), "message": "?" * size}) as answer:
        first = await answer.until("turn")
        await server.request("DELETE", f"/channels/{first['channel']}/turns/{first['turn']}")
    os.kill(started["pid"], signal.SIGCONT)
    assert (await ask(server, ["recall", "name"], session="s"))["text"] == "Ada"


async def test_history_is_the_same_for_the_worker_that_lives_and_for_a_new_one(server: Agentd) -> None:
    await ask(server, ["say", "one"], session="s")
    await ask(server, ["say", "two"], ["raise", "oh"], session="s")
    await ask(server, ["raise", "nothing said"], session="s")
    await ask(server, ["final", {"a": 1}], session="s")
    await ask(server, ["final", "text"], session="s")
    await ask(server, ["think", "hm"], session="s")
    await ask(server, ["say", "unkept"], session="s", store=False)
    live = (await ask(server, ["history", None], session="s", store=False))["text"]
    [channel] = (await server.get("/channels"))["channels"]
    await server.request("DELETE", f"/channels/{channel['name']}")
    await server.gone(channel["name"])
    loaded = (await ask(server, ["history", None], session="s", store=False))["text"]
    assert live == loaded
