"""Much at once, and everything at the worst moment: nothing mixes, nothing hangs, nothing is left over."""

import asyncio
import os
import signal
from typing import Any

import aiohttp
import pytest

from tests.harness import Agentd
from tests.harness.server import PATIENCE
from tests.harness.talk import (
    TALKER,
    ask,
    body,
    client,
    events,
    faults,
    in_channel,
    request_bytes,
    rows,
    stream,
    text_of,
    turn_rows,
)


@pytest.fixture
async def server(agentd: Agentd) -> Agentd:
    return await agentd.start(graphs=[TALKER])


async def at_rest(agentd: Agentd, most: int = 0) -> None:
    """Wait until no turn runs and no more channels than these are left."""
    async with asyncio.timeout(PATIENCE):
        while True:
            channels = (await agentd.get("/channels"))["channels"]
            if len(channels) <= most and not any(channel.get("turn") for channel in channels):
                return
            await asyncio.sleep(0.05)


# ---------------------------------------------------------------------- many at once


async def test_a_hundred_sessions_do_not_mix(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], WORKERS_MAX="110")

    async def talk(number: int) -> None:
        for turn in range(5):
            token = f"token-{number}-{turn}"
            script: list[list[Any]] = [["remember", {token: 1}], ["say", token], ["paced", [3, 0.0]], ["history", None]]
            said = text_of(await events(agentd, *script, session=f"s{number}"))
            assert said.startswith(f"remembered{token}0 1 2 ")
            assert said.count("token-") == said.count(f"token-{number}-") == 1 + sum(2**n for n in range(turn))

    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(talk(number))
    assert faults(agentd) == []


async def test_twenty_turns_of_a_session_keep_their_order(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], AGENTD_SESSION_QUEUE="20")
    async with stream(agentd, body(["say", "on"], ["paced", [1, 0.3]], session="s")) as first:
        await first.until("text")
        clients = []
        for number in range(20):
            clients.append(asyncio.create_task(ask(agentd, ["say", f"#{number}"], session="s")))
            await asyncio.sleep(0.005)  # they come in this order
        answers = await asyncio.gather(*clients)
        await first.all()
    assert [answer["text"] for answer in answers] == [f"#{number}" for number in range(20)]
    said = [row["text"] for row in rows(agentd.state_dir / "store.db", "turns")]
    assert said[1:] == [f"#{number}" for number in range(20)]


# ---------------------------------------------------------------------- two things at the same time


async def test_cancel_and_final_at_the_same_time(server: Agentd) -> None:
    endings = set()
    for number in range(50):
        async with stream(server, body(["say", "on"], ["paced", [1, number % 10 / 2000]], session="s")) as answer:
            first = await answer.next()
            await answer.next()
            cancelling = asyncio.create_task(
                server.request("DELETE", f"/channels/{first['channel']}/turns/{first['turn']}")
            )
            found = await answer.all()
        cancelled = await cancelling
        last = found[-1]
        assert [event["event"] in ("final", "error") for event in found] == [False] * (len(found) - 1) + [True]
        endings.add(last["cause"])
        if cancelled["status"] == 200:
            assert cancelled["cause"] == last["cause"]
        else:
            assert (cancelled["status"], last["cause"]) == (404, "completed")
        assert turn_rows(server)[first["turn"]]["cause"] == last["cause"]
    assert endings <= {"completed", "turn_cancelled"}
    assert faults(server) == []


@pytest.mark.parametrize("kill", ["", "?kill=1"])
async def test_the_stop_of_a_channel_and_the_begin_of_a_turn(server: Agentd, kill: str) -> None:
    for number in range(20):
        name = f"lobby{number}"
        await server.begin(name, "talker")
        asking = asyncio.create_task(server.post(f"/channels/{name}/turns", in_channel(["say", "x"], ["wait", None])))
        for _ in range(number % 5):
            await asyncio.sleep(0.0005)
        stopped, answer = await asyncio.gather(server.request("DELETE", f"/channels/{name}{kill}"), asking)
        assert stopped["status"] == 200
        cause = answer["error"]["cause"]
        assert cause in ("channel_unknown", "killed" if kill else "stopped"), answer
    await at_rest(server)
    assert faults(server) == []


async def test_an_eviction_storm(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], WORKERS_MAX="3")
    gate = asyncio.Semaphore(10)
    statuses: list[int] = []

    async def talk(session: aiohttp.ClientSession, number: int) -> None:
        async with gate:
            request = body(["say", f"{number}"], session=f"s{number % 30}")
            async with session.post(agentd.address + "/turns", json=request) as response:
                answer = await response.json()
                statuses.append(response.status)
                if response.status == 200:
                    assert answer["text"] == f"{number}"
                else:
                    assert (response.status, answer["error"]["cause"]) == (429, "workers_limit"), answer
                    assert int(response.headers["Retry-After"]) > 0

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(90):
            group.create_task(talk(session, number))
    assert statuses.count(200) > 3
    await at_rest(agentd, 3)
    assert faults(agentd) == []


async def test_a_turn_that_waited_too_long_is_forgotten(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], AGENTD_SESSION_WAIT_SECONDS="0.1")
    async with stream(agentd, body(["say", "on"], ["wait", None], session="s")) as first:
        began = await first.until("turn")
        await first.until("text")
        place = len(agentd.events)
        assert (await ask(agentd, ["say", "x"], session="s"))["error"]["cause"] == "session_busy"
        turn = (await agentd.event("http.request", lambda event: "turn" in event, place))["turn"]
        answer = await agentd.request("DELETE", f"/channels/{began['channel']}/turns/{turn}")
        assert answer["status"] == 404


# ---------------------------------------------------------------------- what a session keeps


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


async def next_worker(server: Agentd) -> None:
    """End the only worker there is."""
    [channel] = (await server.get("/channels"))["channels"]
    await server.request("DELETE", f"/channels/{channel['name']}")
    await server.gone(channel["name"])


async def test_nothing_of_a_turn_that_is_not_stored_is_remembered(server: Agentd) -> None:
    await ask(server, ["remember", {"name": "Ada"}], session="s")
    for _ in range(2):
        answer = await ask(server, ["recall", "secret"], ["remember", {"secret": 1}], session="s", store=False)
        assert answer["text"] == "Noneremembered"
    answer = await ask(server, ["recall", "secret"], ["remember", {"more": 1}], session="s")
    assert answer["text"] == "Noneremembered"
    for _ in range(2):
        answer = await ask(server, ["recall", "name"], ["recall", "secret"], ["recall", "more"], session="s")
        assert answer["text"] == "AdaNone1"
        await next_worker(server)
        assert (await ask(server, ["say", "x"], session="s"))["status"] == 200


async def test_the_history_a_session_begins_with_stays(server: Agentd) -> None:
    earlier = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "I am Ada", "number": 2**70},
        {"role": "assistant", "content": "Hi"},
    ]
    told = "user: I am Ada | assistant: Hi"
    first = await ask(server, ["history", None], session="s", history=earlier, store=False)
    assert first["text"] == f"system: be brief | {told}"
    assert (await ask(server, ["raise", "oh"], session="s", history=earlier))["status"] == 500
    assert (await ask(server, ["say", "one"], session="s", history=earlier))["status"] == 200
    told += " | user: ? | assistant: one"
    again = [*earlier, {"role": "user", "content": "something else"}]
    for _ in range(2):
        assert (await ask(server, ["history", None], session="s", history=again, store=False))["text"] == told
        await next_worker(server)
    await server.stop()
    server.events.clear()
    await server.start()
    assert (await ask(server, ["history", None], session="s", store=False))["text"] == told
    assert faults(server) == []


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


async def test_an_idle_session_is_reaped_while_its_next_turn_begins(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], AGENTD_SESSION_IDLE_SECONDS="0.01")
    for number in range(100):
        answer = await ask(agentd, ["recall", "n"], ["remember", {"n": number}], session="s")
        assert answer["status"] == 200, answer
        assert answer["text"] == f"{number - 1 if number else None}remembered"
        await asyncio.sleep(0.008 + number % 10 * 0.0005)
    assert faults(agentd) == []


# ---------------------------------------------------------------------- clients that vanish


async def test_clients_that_vanish_at_every_moment(server: Agentd) -> None:
    request = request_bytes({**body(["say", "on"], ["numbered", [2000, 100]], session="s"), "stream": True})
    whole = len(request)
    cuts = [1, 20, request.index(b"\r\n\r\n"), request.index(b"\r\n\r\n") + 4, whole - 1, whole]
    for cut in cuts:  # in the head, in the body, before anything is answered
        async with client(server) as one:
            await one.write(request[:cut])
            one.vanish()
    for count in (0, 1, 2, 100, 2001):  # at the head, at the first events, at the last
        async with client(server, 1 << 20) as one:
            await one.write(request)
            await one.head()
            for _ in range(count):
                await one.event()
            one.vanish()
    async with client(server) as one:  # half-closed: nothing more is said, everything heard or nothing
        await one.write(request)
        one.socket.shutdown(1)
        with pytest.raises((EOFError, ConnectionError)):
            await one.head()
            await one.all()
            raise EOFError
    assert (await ask(server, ["say", "next"], session="s"))["text"] == "next"
    await at_rest(server, 1)
    assert faults(server) == []


async def test_clients_that_vanish_while_they_wait_and_while_the_worker_starts(server: Agentd) -> None:
    for number in range(30):
        async with client(server) as one:
            await one.ask(body(["wait", None], session=f"s{number % 3}"))
            await asyncio.sleep(number * 0.0007)
            one.vanish()
    async with stream(server, body(["say", "on"], ["wait", None], session="s0")) as running:
        await running.until("text")
        for _ in range(8):
            async with client(server) as one:
                await one.ask(body(["wait", None], session="s0"))
                one.vanish()
    for number in range(3):
        assert (await ask(server, ["say", "next"], session=f"s{number}"))["text"] == "next"
    await at_rest(server, 3)
    assert all(row["ended_at"] is not None for row in turn_rows(server).values())
    assert faults(server) == []


async def test_two_hundred_clients_that_ask_and_vanish_at_once(server: Agentd) -> None:
    async def one(number: int) -> None:
        async with client(server) as vanishing:
            await vanishing.ask(body(["wait", None], **({"session": f"s{number % 20}"} if number % 2 else {})))
            vanishing.vanish()

    await asyncio.gather(*(one(number) for number in range(200)))
    for number in range(1, 20, 2):
        async with asyncio.timeout(PATIENCE):  # those who vanished may not all be noticed yet, and take their room
            while (answer := await ask(server, ["say", "next"], session=f"s{number}"))["status"] == 429:
                assert answer["error"]["cause"] in ("session_queue_full", "workers_limit")
        assert (answer["status"], answer.get("text")) == (200, "next"), answer
    await at_rest(server, 10)
    assert all(row["ended_at"] is not None for row in turn_rows(server).values())
    assert faults(server) == []


# ---------------------------------------------------------------------- names that are hard to write


@pytest.mark.parametrize("name", ["\ud800", "\0", "a/../b", "ü" * 500, "\u2028"])
async def test_a_session_may_have_any_name_or_is_refused(server: Agentd, name: str) -> None:
    for who in ({"session": name}, {"session": "s", "user": name}):
        answer = await ask(server, ["say", "x"], **who)
        assert answer["status"] in (200, 400), answer
    assert faults(server) == []
