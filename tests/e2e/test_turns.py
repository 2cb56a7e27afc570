"""Turns from the request to the ending: every event once and in order, and an ending whatever happens."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.harness import Agentd
from tests.harness.server import PATIENCE
from tests.harness.talk import MUTE, TALKER, ask, body, events, in_channel, post, stream, text_of


@pytest.fixture
async def server(agentd: Agentd) -> Agentd:
    return await agentd.start(graphs=[TALKER, MUTE])


EVERYTHING: list[list[Any]] = [
    ["think", "hm"],
    ["say", "One "],
    ["call", {"a": 2, "b": 3}],
    ["source", {"title": "t", "text": "x", "source": "s"}],
    ["structured", {"n": [1, None]}],
    ["usage", [3, 4]],
    ["final", {"done": True}],
]


async def test_every_kind_of_event_in_order(server: Agentd) -> None:
    found = await events(server, *EVERYTHING)
    kinds = "turn thought text tool_call tool_result text source structured usage final"
    assert [event["event"] for event in found] == kinds.split()
    turn = found[0]["turn"]
    assert all(event["turn"] == turn for event in found)
    assert found[3]["arguments"] == {"a": 2, "b": 3}
    assert found[4]["output"] == 5
    assert found[-1]["value"] == {"done": True}
    assert found[-1]["cause"] == "completed"
    ids = [event["place"] for event in found[1:]]
    numbers = [tuple(map(int, shown.rpartition(":")[2].split("."))) for shown in ids]
    assert numbers == sorted(set(numbers))


async def test_the_same_in_one_piece(server: Agentd) -> None:
    answer = await ask(server, *EVERYTHING)
    assert answer["status"] == 200
    assert (answer["text"], answer["thoughts"], answer["value"]) == ("One 5", "hm", {"done": True})
    assert [(call["name"], call["output"]) for call in answer["tool_calls"]] == [("add", 5)]
    assert answer["sources"] == [{"title": "t", "text": "x", "source": "s"}]
    assert answer["structured"]["value"] == {"n": [1, None]}
    assert answer["usage"]["total_tokens"] == 7
    assert answer["cause"] == "completed"


async def test_an_invoke(server: Agentd) -> None:
    answer = await server.post("/turns", {"graph": "mute", "input": {"a": [1, "ü"]}})
    assert (answer["status"], answer["value"]) == (200, {"a": [1, "ü"]})


async def test_what_no_node_answers_is_refused(server: Agentd) -> None:
    answer = await server.post("/turns", {"graph": "mute", "message": "hello"})
    assert (answer["status"], answer["error"]["cause"]) == (501, "not_implemented")


@pytest.mark.parametrize(
    ("request_body", "status", "words"),
    [
        ({}, 400, "graph is missing"),
        ({"graph": "talker"}, 400, "exactly one of message, messages and input"),
        ({"graph": "talker", "message": "a", "input": 1}, 400, "exactly one of message, messages and input"),
        ({"graph": "talker", "message": 7}, 400, "message: Input should be a valid string"),
        ({"graph": "talker", "messages": []}, 400, "messages"),
        ({"graph": "talker", "messages": [{"role": "boss", "content": ""}]}, 400, "messages[0].role"),
        ({"graph": "talker", "message": "a", "kind": "invoke"}, 400, "kind is 'invoke'"),
        ({"graph": "talker", "message": "a", "colour": 1}, 400, "colour is no field"),
        ({"graph": "talker", "message": "a", "session": ""}, 400, "session"),
        ({"graph": "talker", "message": "a", "session": "x" * 2000}, 400, "session"),
        ({"graph": "talker", "message": "a", "stream": "yes"}, 400, "stream"),
        ({"graph": "nowhere", "message": "a"}, 404, "nowhere"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(
    server: Agentd, request_body: dict[str, Any], status: int, words: str
) -> None:
    for streamed in ({}, {"stream": True}):
        answer = await server.post("/turns", {**streamed, **request_body})
        assert answer["status"] == status, answer
        assert words in answer["error"]["detail"]


async def test_ten_thousand_tiny_events(server: Agentd) -> None:
    found = await events(server, ["count", 10_000])
    assert [event["text"] for event in found[1:-1]] == [f"{number} " for number in range(10_000)]
    assert found[-1]["event"] == "final"


async def test_every_event_is_a_chunk_of_its_own(server: Agentd) -> None:
    async with stream(server, body(["count", 3000])) as answer:
        found = await answer.all()
        assert len(answer.chunks) == len(found) == 3002
        assert all(chunk.endswith(b"\n\n") and chunk.count(b"\n\n") == 1 for chunk in answer.chunks)


async def test_a_megabyte_of_text_and_more(server: Agentd) -> None:
    text = "Zwölf Boxkämpfer 🥊 \u2028 jagen\n" * 60_000
    found = await events(server, ["pieces", [text, "end"]])
    assert text_of(found) == text + "end"
    answer = await ask(server, ["pieces", [text, "end"]])
    assert answer["text"] == text + "end"


async def test_a_request_of_megabytes_reaches_the_agent(server: Agentd) -> None:
    long = "ü" * 1_200_000
    answer = await post(server, {"graph": "talker", "message": long})
    assert answer["text"] == long
    state = server.state_dir / "ch"
    assert list(state.glob("*/turn-*")) == []


@pytest.mark.parametrize(
    ("script", "status", "cause", "words"),
    [
        ([["say", "a"], ["raise", "no such room"]], 500, "agent_error", "no such room"),
        ([["yield", {"not": "an event"}]], 502, "response_invalid", "dict"),
        ([["huge", 70]], 502, "response_invalid", "64"),
    ],
)
async def test_an_agent_that_fails(
    server: Agentd, script: list[list[Any]], status: int, cause: str, words: str
) -> None:
    answer = await ask(server, *script)
    assert (answer["status"], answer["error"]["cause"]) == (status, cause)
    assert words in answer["error"]["detail"]
    found = await events(server, *script)
    assert [event["event"] for event in found[-1:]] == ["error"]
    assert found[-1]["cause"] == cause
    assert words in found[-1]["message"]
    assert found[-1]["next_step"]


@pytest.mark.parametrize("how", ["exit", "kill"])
@pytest.mark.parametrize("before", [0, 1, 2, 40])
async def test_a_worker_that_dies_ends_its_turn_with_a_cause(server: Agentd, how: str, before: int) -> None:
    script: list[list[Any]] = [["paced", [before, 0.0]], ["die", how]]
    found = await events(server, *script)
    assert [event["text"] for event in found if event["event"] == "text"] == [f"{n} " for n in range(before)]
    assert found[-1]["event"] == "error"
    assert found[-1]["cause"] == "crashed"
    answer = await ask(server, *script)
    assert (answer["status"], answer["error"]["cause"]) == (502, "crashed")


async def test_the_session_of_a_worker_that_died_goes_on_with_another(server: Agentd) -> None:
    await ask(server, ["remember", {"k": 1}], session="s")
    await ask(server, ["remember", {"k": 2}], ["die", "kill"], session="s")
    answer = await ask(server, ["recall", "k"], session="s")
    assert answer.get("text") == "1", answer


async def test_a_session_has_one_worker_and_others_have_their_own(server: Agentd) -> None:
    pids = [
        (await ask(server, ["pid", None], **who))["text"]
        for who in ({"session": "a"}, {"session": "a"}, {"session": "b"}, {"session": "a", "user": "u"}, {}, {})
    ]
    assert pids[0] == pids[1]
    assert len(set(pids)) == 5


async def test_state_and_history_outlive_the_worker(server: Agentd) -> None:
    await ask(server, ["remember", {"name": "Ada"}], session="s")
    [channel] = (await server.get("/channels"))["channels"]
    await server.request("DELETE", f"/channels/{channel['name']}?kill=1")
    answer = await ask(server, ["recall", "name"], ["say", " / "], ["history", None], session="s")
    assert answer["text"] == "Ada / user: ? | assistant: remembered"
    answer = await ask(server, ["recall", "name"], session="s", user="somebody else")
    assert answer["text"] == "None"


async def test_state_and_history_outlive_the_server(server: Agentd) -> None:
    await ask(server, ["remember", {"name": "Ada"}], session="s")
    assert await server.stop() == 0
    server.events.clear()
    await server.start()
    answer = await ask(server, ["recall", "name"], ["say", " / "], ["history", None], session="s")
    assert answer["text"] == "Ada / user: ? | assistant: remembered"


async def test_history_that_the_client_brings_counts_for_a_new_session_only(server: Agentd) -> None:
    brought = {"history": [{"role": "user", "content": "before"}]}
    assert (await ask(server, ["history", None], session="s", **brought))["text"] == "user: before"
    brought = {"history": [{"role": "user", "content": "something else"}]}
    answer = await ask(server, ["history", None], session="s", **brought)
    assert answer["text"] == "user: before | user: ? | assistant: user: before"


async def test_turns_of_one_session_come_one_after_the_other(server: Agentd) -> None:
    async def one(number: int) -> dict[str, Any]:
        return await ask(server, ["paced", [3, 0.01]], ["say", f"#{number}"], session="s")

    answers = await asyncio.gather(*(one(number) for number in range(8)))
    assert [answer["status"] for answer in answers] == [200] * 8
    assert len((await server.get("/channels"))["channels"]) == 1


async def test_a_queue_has_an_end(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], AGENTD_SESSION_QUEUE="2", AGENTD_SESSION_WAIT_SECONDS="0.2")
    async with stream(agentd, body(["say", "on"], ["wait", None], session="s")) as first:
        await first.until("text")
        waiting = [asyncio.create_task(ask(agentd, ["say", "x"], session="s")) for _ in range(3)]
        answers = await asyncio.gather(*waiting)
    found = sorted((answer["status"], answer["error"]["cause"]) for answer in answers)
    assert found == [(409, "session_busy"), (409, "session_busy"), (429, "session_queue_full")]


async def test_retry_after_is_told(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], WORKERS_MAX="1")
    async with stream(agentd, body(["say", "on"], ["wait", None])) as first:
        await first.until("text")
        async with (
            aiohttp.ClientSession() as session,
            session.post(agentd.address + "/turns", json=body(["say", "x"])) as response,
        ):
            assert response.status == 429
            assert int(response.headers["Retry-After"]) > 0
            assert (await response.json())["error"]["cause"] == "workers_limit"


async def test_numbers_that_only_json_has_are_no_error(server: Agentd) -> None:
    options = {"seed": 2**70, "least": -(2**63), "most": 2**64 - 1, "no": [True, None, 1.5, "é"]}
    for padding in (0, 100_000):  # by the pipe, by a file
        answer = await ask(server, ["request", None], session="s", options={**options, "padding": "x" * padding})
        assert answer["status"] == 200, answer
        told = answer["structured"]["value"]["options"]
        assert told == {**options, "seed": float(2**70), "padding": "x" * padding}
        assert [type(told[name]) for name in ("seed", "least", "most")] == [float, int, int]
    answer = await ask(server, ["say", "x"], session="s", history=[{"role": "user", "content": "?", "number": 2**70}])
    assert answer["status"] == 200, answer


async def test_an_idle_session_makes_room(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], WORKERS_MAX="2")
    for session in ("a", "b"):
        await ask(agentd, ["remember", {"who": session}], session=session)
    answer = await ask(agentd, ["say", "here"], session="c")
    assert answer["text"] == "here"
    gone = await agentd.event("channel.gone")
    assert gone["cause"] == "session_evicted"
    assert (await ask(agentd, ["recall", "who"], session="a"))["text"] == "a"


async def test_an_idle_session_is_reaped(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], AGENTD_SESSION_IDLE_SECONDS="0.1")
    await ask(agentd, ["remember", {"k": 1}], session="s")
    assert (await agentd.event("channel.gone"))["cause"] == "session_idle"
    assert (await ask(agentd, ["recall", "k"], session="s"))["text"] == "1"


async def test_a_turn_without_a_session_has_its_worker_for_itself(server: Agentd) -> None:
    await ask(server, ["say", "x"])
    gone = await server.event("channel.gone")
    assert (gone["cause"], gone["status"]) == ("turn_ended", 0)


@pytest.mark.parametrize("script", [["wait", None], ["endless", 10], ["paced", [10_000, 0.001]]])
async def test_a_client_that_goes_frees_the_session_at_once(server: Agentd, script: list[Any]) -> None:
    async with stream(server, body(["pid", None], script, session="s")) as answer:
        pid = (await answer.until("text"))["text"]
    loop = asyncio.get_running_loop()
    began = loop.time()
    again = await ask(server, ["pid", None], session="s")
    assert again["text"] == pid, "its worker lives on"
    assert loop.time() - began < 1.0


async def test_a_client_that_does_not_stream_goes_too(server: Agentd) -> None:
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(
            session.post(server.address + "/turns", json=body(["say", "x"], ["wait", None], session="s"))
        )
        await server.event("channel.ready")
        asking.cancel()
        await asyncio.wait({asking})
    assert (await ask(server, ["say", "next"], session="s"))["text"] == "next"


async def test_an_agent_that_ignores_its_cancellation_is_replaced(server: Agentd) -> None:
    async with stream(server, body(["pid", None], ["deaf", None], session="s")) as answer:
        pid = (await answer.until("text"))["text"]
    again = await ask(server, ["pid", None], session="s")
    assert again["text"] != pid
    assert (await server.event("channel.gone"))["cause"] == "cancel_ignored"


async def test_a_turn_is_cancelled_by_request(server: Agentd) -> None:
    async with stream(server, body(["say", "on"], ["wait", None], session="s")) as answer:
        began = await answer.until("turn")
        await answer.until("text")
        cancelled = await server.request("DELETE", f"/channels/{began['channel']}/turns/{began['turn']}")
        assert (cancelled["status"], cancelled["cause"]) == (200, "turn_cancelled")
        last = await answer.next()
        assert (last["event"], last["cause"]) == ("error", "turn_cancelled")
    again = await server.request("DELETE", f"/channels/{began['channel']}/turns/{began['turn']}")
    assert (again["status"], again["error"]["cause"]) == (404, "turn_unknown")


async def test_a_turn_that_waits_is_cancelled_too(server: Agentd) -> None:
    async with stream(server, body(["say", "on"], ["wait", None], session="s")) as answer:
        began = await answer.until("turn")
        async with aiohttp.ClientSession() as session:
            waiting = asyncio.create_task(session.post(server.address + "/turns", json=body(["say", "x"], session="s")))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})
        await server.request("DELETE", f"/channels/{began['channel']}/turns/{began['turn']}")
    assert (await ask(server, ["say", "free"], session="s"))["text"] == "free"


@pytest.mark.parametrize(
    ("setting", "cause"), [("AGENTD_TURN_SECONDS", "turn_timeout"), ("AGENTD_TURN_SILENCE_SECONDS", "turn_silent")]
)
async def test_a_turn_has_its_time(agentd: Agentd, setting: str, cause: str) -> None:
    await agentd.start(graphs=[TALKER], **{setting: "0.3"})
    answer = await ask(agentd, ["say", "so far"], ["wait", None], session="s")
    assert (answer["status"], answer["error"]["cause"], answer["text"]) == (504, cause, "so far")
    assert (await ask(agentd, ["say", "next"], session="s"))["text"] == "next"


async def test_a_channel_that_somebody_started_answers_turns(server: Agentd) -> None:
    await server.begin("lobby", "talker")
    answer = await server.post("/channels/lobby/turns", in_channel(["remember", {"k": 3}]))
    assert (answer["status"], answer["channel"], answer["text"]) == (200, "lobby", "remembered")
    answer = await server.post("/channels/lobby/turns", in_channel(["recall", "k"]))
    assert answer["text"] == "3"
    await server.end("lobby")
    answer = await server.post("/channels/lobby/turns", in_channel(["recall", "k"]))
    assert (answer["status"], answer["error"]["cause"]) == (404, "channel_unknown")


async def test_stopping_the_channel_ends_its_turn(server: Agentd) -> None:
    await server.begin("lobby", "talker")
    async with stream(server, in_channel(["say", "on"], ["wait", None]), "/channels/lobby/turns") as answer:
        await answer.until("text")
        await server.end("lobby")
        last = await answer.next()
    assert (last["event"], last["cause"]) == ("error", "stopped")


async def test_the_server_s_end_ends_turns(server: Agentd) -> None:
    async with stream(server, body(["say", "on"], ["wait", None])) as answer:
        await answer.until("text")
        stopping = asyncio.create_task(server.stop())
        last = await answer.next()
        assert (last["event"], last["cause"]) == ("error", "server_stopped")
        assert await stopping == 0


async def test_a_blocking_agent_is_seen_as_slow_and_harms_no_other(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], AGENTD_BEAT_SECONDS="0.2")
    async with stream(agentd, body(["say", "on"], ["block", 3.0], session="slow")) as answer:
        began = await answer.until("turn")
        async with asyncio.timeout(PATIENCE):
            while (await agentd.channel(began["channel"]))["health"] == "ok":
                await ask(agentd, ["say", "quick"], session="other")
        assert text_of(await answer.all()) == "onblocked"


async def test_foreign_workers_answer_no_turns(agentd: Agentd, tmp_path: Path) -> None:
    graph = {"name": "foreign", "graph": {"nodes": []}, "agentd": {"command": ["sleep", "60"]}}
    await agentd.start(graphs=[graph], WORKER_STOP_GRACE_SECONDS="0.2")
    await agentd.begin("f", "foreign")
    answer = await agentd.post("/channels/f/turns", in_channel(["say", "x"]))
    assert (answer["status"], answer["error"]["cause"]) == (501, "not_implemented")


async def test_the_old_protocol_is_answered_without_chunks(server: Agentd) -> None:
    reader, writer = await asyncio.open_connection(*server.address.removeprefix("http://").split(":"))
    data = json.dumps({**body(["count", 100]), "stream": True}).encode()
    writer.write(b"POST /turns HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert rest.count(b"event: text\n") == 100
    assert b"event: final\n" in rest
