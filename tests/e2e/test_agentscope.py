"""AgentScope's clients against a real server: the published snippets, sessions, and every way a turn can end."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from typing import Any

import aiohttp

from tests.e2e.test_docs import DOCS, shell, snippets
from tests.harness import Agentd
from tests.harness.agentscope import DONE, Event, Reply, ask, asked, process, text_of
from tests.harness.graphs import FRIDAY
from tests.harness.server import PATIENCE
from tests.harness.talk import MUTE, TALKER, client, faults, request_bytes

SLEEPER = {"name": "sleeper", "graph": {"nodes": [{"type": "extension", "name": "sleeper", "addon": "zoo_sleeper"}]}}
BROKEN = {"name": "broken", "graph": {"nodes": [{"type": "extension", "name": "x", "addon": "nobody_has_this"}]}}
GRAPHS: list[dict[str, Any]] = [FRIDAY, TALKER, MUTE, SLEEPER, BROKEN]


def script(*steps: list[Any], **more: Any) -> dict[str, Any]:
    """A question to the talker; fields that are not known reach the agent as its context."""
    return asked("?", script=list(steps), model="talker", **more)


async def last_of(agentd: Agentd, body: dict[str, Any]) -> Event:
    return (await ask(agentd, body))[-1]


async def said(agentd: Agentd, body: dict[str, Any]) -> str:
    return text_of(await ask(agentd, body))


async def snippet(address: str, body: dict[str, Any]) -> list[str]:
    """The published client in effect: it reads one field of each chunk, and has no guard."""
    shown: list[str] = []
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{address}/process", json=body) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        async for chunk, _ in response.content.iter_chunks():
            text = chunk.decode("utf-8")
            if text.startswith("data: "):
                data = text[len("data: ") :].strip()
                if data == "[DONE]":
                    return shown
                shown.append(json.loads(data)["output"][0]["content"][0]["text"])
    raise AssertionError(f"no [DONE] after {shown[-3:]}")


async def at_rest(agentd: Agentd) -> None:
    """Wait until no turn runs."""
    async with asyncio.timeout(PATIENCE):
        while any(channel["turn"] for channel in (await agentd.get("/channels"))["channels"]):
            await asyncio.sleep(0.02)


# ---------------------------------------------------------------------- the published clients


async def test_the_published_snippets(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    shown = await snippet(server.address, asked("What is the capital of France?", session_id="s1", user_id="u1"))
    assert "Paris" in shown[-1]
    assert shown[:2] == ["", ""]
    assert all(shown[-1].startswith(text) for text in shown)
    counted = await snippet(server.address, asked("count to 30"))
    assert counted[-1] == " ".join(map(str, range(1, 31)))

    await snippet(server.address, asked("My name is Alice.", session_id="two", user_id="u"))
    assert any(
        "Alice" in text
        for text in await snippet(server.address, asked("What is my name?", session_id="two", user_id="u"))
    )
    for other in (
        {"session_id": "two", "user_id": "v"},
        {"session_id": "one", "user_id": "u"},
        {"session_id": "two"},
        {},
    ):
        assert "Alice" not in "".join(await snippet(server.address, asked("What is my name?", **other))), other

    # A piece of many kinds, each frame checked; what the agent sends is what all the events add up to.
    steps: list[list[Any]] = [["think", "hm"], ["call", {"a": 2, "b": 3}], ["say", " \u2028\x85🥊"], ["usage", [3, 4]]]
    events = await ask(server, script(*steps, id="r-1", session_id="s2", stream=False))
    last = events[-1]
    assert [message["type"] for message in last["output"]] == [
        "reasoning",
        "plugin_call",
        "plugin_call_output",
        "message",
    ]
    assert text_of(events) == "5 \u2028\x85🥊"
    assert (last["id"], last["session_id"], last["status"], last["usage"]["total_tokens"]) == (
        "r-1",
        "s2",
        "completed",
        7,
    )

    # The client may go on with the session it was given, and send back all that it has seen.
    first = await ask(server, asked("My name is Bob."))
    session = first[-1]["session_id"]
    assert "Bob" in await said(server, asked("What is my name?", session_id=session))
    seen = [*asked("My name is Carol.")["input"], *first[-1]["output"], *asked("What is my name?")["input"]]
    assert "Bob" in await said(server, {"input": seen, "session_id": session}), "the session knows better"
    assert "Carol" in await said(server, {"input": seen, "session_id": "new"})
    assert "Carol" in await said(server, {"input": seen})

    request = (await last_of(server, script(["request", None], session_id="s", user_id="u", temperature=0.5)))["output"]
    told = json.loads(request[0]["content"][0]["text"])
    assert (told["session"], told["user"], told["options"]) == ("s", "u", {"temperature": 0.5})

    long = "日本 \n" * 20_000
    assert await said(server, script(["pieces", [long, "end"]])) == long + "end"
    assert await said(server, script(["count", 3000])) == "".join(f"{number} " for number in range(3000))
    await at_rest(server)
    assert {channel["session"] for channel in (await server.get("/channels"))["channels"]} <= {
        *("s1", "s2", "s", "two", "one", "new", session)
    }, "workers of calls without a session do not stay"
    assert faults(server) == []


# ---------------------------------------------------------------------- refusals


async def test_what_is_refused_before_a_head(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS, AGENTD_BODY_LIMIT_BYTES="100000")
    user = {"role": "user", "content": "x"}
    bad: list[tuple[int, str, dict[str, Any]]] = [
        (400, "INVALID_PARAMETER", {"data": b"{"}),
        (400, "INVALID_PARAMETER", {"data": b""}),
        (400, "INVALID_PARAMETER", {"data": b'{"input":"\xff"}'}),
        (400, "INVALID_PARAMETER", {"data": b"[]"}),
        (422, "MISSING_PARAMETER", {"json": {}}),
        (422, "INVALID_PARAMETER", {"json": {"input": []}}),
        (422, "INVALID_PARAMETER", {"json": {"input": [{**user, "role": "boss"}]}}),
        (422, "INVALID_PARAMETER", {"json": {"input": [{**user, "content": [{"type": "smell"}]}]}}),
        (422, "INVALID_PARAMETER", {"json": {"input": [user], "session_id": 7}}),
        (413, "BODY_TOO_LARGE", {"data": b" " * 200_000}),
        (500, "ADDONS_MISSING", {"json": {"input": [user], "model": "broken"}}),
    ]
    for path in ("/process", "/process/task"):
        for status, code, options in bad:
            if path == "/process/task" and status == 500:
                continue
            answer = await server.request("POST", path, **options)
            assert (answer["status"], answer["error"]["code"]) == (status, code), (path, options, answer)
            assert isinstance(answer["error"]["message"], str)
            assert "detail" in answer
    answer = await server.post("/process/task", input="x", timeout=0)
    assert (answer["status"], answer["detail"][0]["loc"]) == (422, ["body", "timeout"])

    for method, path, status, allow in (
        ("GET", "/process", 405, "POST"),
        ("DELETE", "/process", 405, "POST"),
        ("GET", "/process/task", 405, "POST"),
        ("POST", "/process/task/x", 405, "GET,HEAD"),
        ("POST", "/process/nothing", 404, None),
        ("POST", "/process/", 404, None),
        ("GET", "/process/task/task_0", 404, None),
    ):
        async with aiohttp.ClientSession() as session, session.request(method, server.address + path) as response:
            told = await response.json()
            assert (response.status, response.headers.get("Allow")) == (status, allow), (method, path)
            assert told["error"]["code"] in ("NOT_FOUND", "METHOD_NOT_ALLOWED", "RESPONSE_UNKNOWN")
    for body in ({"session_id": "s", "user_id": 7}, {"session_id": ""}, {"session_id": 7}):
        answer = await server.post("/stop", body)
        assert (answer["status"], "error" in answer) == (422, True), body
    assert faults(server) == []


# ---------------------------------------------------------------------- sessions


async def test_many_at_once_do_not_mix(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS, WORKERS_MAX="140", AGENTD_DEFAULT_GRAPH="talker")

    async def talk(number: int) -> None:
        for turn in range(2):
            token = f"token-{number}-{turn}"
            body = script(["say", token], ["paced", [3, 0.0]], ["history", None], session_id=f"s{number}")
            text = await said(server, body)
            assert text.startswith(f"{token}0 1 2 ")
            assert text.count("token-") == text.count(f"token-{number}-") == turn + 1

    async def alone(number: int) -> str:
        event = await last_of(server, script(["say", f"alone-{number}"], ["history", None]))
        assert event["output"][0]["content"][0]["text"] == f"alone-{number}"
        session: str = event["session_id"]
        return session

    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(talk(number))
        loners = [group.create_task(alone(number)) for number in range(20)]
    assert len({task.result() for task in loners}) == 20
    assert faults(server) == []


async def test_a_session_that_is_busy(agentd: Agentd) -> None:
    server = await agentd.start(
        graphs=GRAPHS, AGENTD_SESSION_QUEUE="2", AGENTD_SESSION_WAIT_SECONDS="1.5", AGENTD_DEFAULT_GRAPH="talker"
    )
    loop = asyncio.get_running_loop()
    busy = script(["say", "on"], ["paced", [4, 0.1]], session_id="s")
    async with process(server, busy) as first:
        await first.until("content")
        second = asyncio.create_task(said(server, script(["history", None], session_id="s")))
        assert await said(server, script(["say", "quick"], session_id="other")) == "quick"
        assert text_of(await first.all()) == "on0 1 2 3 "
        assert await second == "user: ? | assistant: on0 1 2 3 ", "it waited, and saw what came before"

    # Somebody who hangs up frees the session at once, and what was said is remembered.
    async with process(server, script(["say", "half"], ["wait", None], session_id="s")) as left:
        await left.until("content")
    began = loop.time()
    assert (await said(server, script(["history", None], session_id="s"))).endswith("assistant: half")
    assert loop.time() - began < 1.0

    async with process(server, script(["say", "on"], ["wait", None], session_id="s")) as first:
        await first.until("content")
        one_more = script(["say", "x"], session_id="s")
        answers = await asyncio.gather(*(server.post("/process", one_more) for _ in range(3)))
        assert sorted((answer["status"], answer["error"]["code"]) for answer in answers) == [
            (409, "SESSION_BUSY"),
            (409, "SESSION_BUSY"),
            (429, "SESSION_QUEUE_FULL"),
        ]
        answer = await server.post("/stop", input=[], session_id="s")
        assert answer["status"] == "success"
        events = await first.all()
        assert (events[-1]["status"], text_of(events)) == ("canceled", "on"), "it was not disturbed until then"
    assert faults(server) == []


async def test_no_room_is_a_status_of_its_own(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS, WORKERS_MAX="1")
    async with process(server, script(["say", "on"], ["wait", None], session_id="s")) as first:
        await first.until("content")
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{server.address}/process", json=asked("hi")) as response,
        ):
            assert (response.status, (await response.json())["error"]["code"]) == (503, "WORKERS_LIMIT")
            assert int(response.headers["Retry-After"]) > 0
    async with asyncio.timeout(PATIENCE):  # until the server knows that the client has gone
        while any(row["turn"] for row in (await server.get("/channels"))["channels"]):
            await asyncio.sleep(0.01)
    assert "Paris" in await said(server, asked("capital of France")), "the idle session makes room"


# ---------------------------------------------------------------------- endings


async def test_every_ending(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS, AGENTD_TURN_SILENCE_SECONDS="0.5", WORKER_START_TIMEOUT_SECONDS="2")

    async def failed(*steps: list[Any], **more: Any) -> tuple[str, str]:
        events = await ask(server, script(["say", "half "], *steps, session_id="s", **more))
        assert events[-1]["status"] == "failed"
        assert "half ".startswith(text_of(events)), "what had not left the worker died with it"
        error = events[-1]["error"]
        return error["code"], error["message"]

    code, text = await failed(["raise", "no luck"])
    assert (code, "no luck" in text, "Traceback" in text) == ("AGENT_ERROR", True, False)
    assert (await failed(["die", "kill"]))[0] == "WORKER_DIED"
    assert (await failed(["die", "exit"]))[0] == "WORKER_DIED"
    assert (await failed(["wait", None]))[0] == "TIMEOUT", "nothing was said"
    assert (await failed(["block", 30]))[0] == "TIMEOUT", "a worker that hangs"
    assert (await failed(["deaf", None]))[0] == "TIMEOUT", "and one that does not listen"

    async with process(server, script(["say", "half "], ["paced", [1000, 0.05]], session_id="k")) as reply:
        await reply.until("content")
        [pid] = [row["pid"] for row in (await server.get("/channels"))["channels"] if row["session"] == "k"]
        os.kill(pid, signal.SIGKILL)
        events = await reply.all()
        assert events[-1]["error"]["code"] == "WORKER_DIED"
        assert text_of(events).startswith("half ")
    assert await said(server, script(["say", "well"], session_id="k")) == "well", "the session starts afresh"

    # An interrupt, of a turn that listens and of one that does not.
    assert (await server.post("/stop", input=[], session_id="i", user_id="u"))["status"] == "success"
    for step in (["paced", [1000, 0.01]], ["deaf", None]):
        async with process(server, script(["say", "half "], step, session_id="i", user_id="u")) as reply:
            await reply.until("content")
            assert (await server.post("/stop", session_id="i"))["status"] == "success", "that is another user's"
            answer = await server.post("/stop", input=[], session_id="i", user_id="u")
            assert (answer["status"], "interrupted" in answer["message"]) == ("success", True)
            assert (await server.post("/stop", session_id="i", user_id="u"))["message"] != answer["message"], (
                "it has ended"
            )
            events = await reply.all()
            assert (events[-1]["status"], events[-1]["error"]) == ("canceled", None)
            assert text_of(events).startswith("half ")
    assert "half" in await said(server, script(["history", None], session_id="i", user_id="u"))

    # A start that takes long has its head and its opening at once.
    began = time.monotonic()
    async with process(server, asked("hi", model="sleeper")) as reply:
        assert (await reply.until("response", "created"))["output"][0]["content"][0]["text"] == ""
        await reply.until("response")
        assert time.monotonic() - began < 1.5
        events = await reply.all()
        assert events[-1]["error"]["code"] == "START_TIMEOUT"
        assert events[-1]["output"][0]["content"][0]["text"] == ""

    answer = await server.post("/process", asked("hi", model="mute"))
    assert (answer["status"], answer["error"]["code"]) == (501, "NOT_IMPLEMENTED"), "that is known before the head"
    assert faults(server) == []


async def test_a_server_that_stops(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS, WORKER_STOP_GRACE_SECONDS="0.5")
    async with contextlib.AsyncExitStack() as stack:
        replies: list[Reply] = []
        for number in range(5):
            body = script(["say", "half "], ["wait", None], session_id=f"s{number}")
            replies.append(await stack.enter_async_context(process(server, body)))
            await replies[-1].until("content")
        assert await server.stop() == 0
        for reply in replies:
            events = await reply.all()
            assert (events[-1]["status"], events[-1]["error"]["code"]) == ("failed", "SHUTTING_DOWN")
            assert text_of(events) == "half "
            assert reply.chunks[-1] == DONE
    assert faults(server) == []


async def test_a_quiet_agent_is_bridged_by_comments(agentd: Agentd) -> None:
    """With less patience than the 15 s that are published."""
    code = (
        "import sys; from supervisor.http import sse; sse.KEEP_ALIVE_SECONDS = 0.1; from supervisor.cli import main; "
    )
    agentd.command = lambda _: [sys.executable, "-c", f"{code} sys.exit(main(['serve']))"]  # type: ignore[method-assign]
    server = await agentd.start(graphs=GRAPHS)
    async with process(server, script(["paced", [3, 0.35]])) as reply:
        events = await reply.all()
    assert text_of(events) == "0 1 2 "
    comments = [chunk for chunk in reply.chunks if chunk.startswith(b":")]
    assert len(comments) >= 3
    assert set(comments) == {b": keep-alive\n\n"}
    assert reply.chunks[-1] == DONE


async def test_what_is_on_the_wire(agentd: Agentd) -> None:
    """Byte by byte: the head, each frame in a chunk, and the connection of use afterwards."""
    server = await agentd.start(graphs=GRAPHS)
    async with client(server, window=256 * 1024) as reader:
        for _ in range(2):
            await reader.write(request_bytes(asked("who are you"), "/process"))
            head = (await reader.head()).decode()
            assert head.startswith("HTTP/1.1 200 ")
            assert "Content-Type: text/event-stream; charset=utf-8\r\n" in head
            assert "Cache-Control: no-cache\r\n" in head
            assert "X-Accel-Buffering: no\r\n" in head
            assert "Transfer-Encoding: chunked\r\n" in head
            assert "Content-Encoding" not in head
            chunks = []
            while size := int(await reader._until(b"\r\n"), 16):
                while len(reader._rest) < size + 2:
                    await reader._read()
                chunks.append(reader._rest[:size])
                reader._rest = reader._rest[size + 2 :]
            assert await reader._until(b"\r\n") == b""
            assert chunks[-1] == DONE
            assert all(chunk.startswith(b"data: ") and chunk.count(b"\n") == 2 for chunk in chunks)


# ---------------------------------------------------------------------- tasks


async def result_of(agentd: Agentd, task: str) -> dict[str, Any]:
    """What a task came to, waited for; until then it is pending or running."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{agentd.address}/process/task/{task}") as response,
            ):
                assert response.status == 200
                told: dict[str, Any] = await response.json()
            if told["status"] not in ("pending", "running"):
                return told
            assert told["result"] is None
            await asyncio.sleep(0.02)


async def begin(agentd: Agentd, body: dict[str, Any]) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{agentd.address}/process/task", json=body) as response,
    ):
        told = await response.json()
        assert (response.status, told["status"], told.keys()) == (
            200,
            "submitted",
            {"task_id", "status", "queue", "message"},
        )
        task: str = told["task_id"]
        return task


async def test_the_life_of_a_task(agentd: Agentd, successor: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS, WORKER_STOP_GRACE_SECONDS="0.5")
    task = await begin(server, script(["think", "hm"], ["say", "done"], session_id="s", id="r-9"))
    done = await result_of(server, task)
    assert done["status"] == "finished"
    result = done["result"]
    assert (result["object"], result["status"], result["id"], result["session_id"]) == (
        "response",
        "completed",
        "r-9",
        "s",
    )
    assert [message["type"] for message in result["output"]] == ["reasoning", "message"]
    assert text_of([result]) == "done"
    assert "done" in await said(server, script(["history", None], session_id="s")), "it is a turn as any other"

    failing = await begin(server, script(["raise", "no luck"]))
    told = await result_of(server, failing)
    assert (told["status"], told["result"].startswith("AGENT_ERROR: "), "no luck" in told["result"]) == (
        "error",
        True,
        True,
    )
    late = await begin(server, script(["say", "x"], ["wait", None], timeout=0.3))
    assert (await result_of(server, late))["result"].startswith("TIMEOUT: ")
    interrupted = await begin(server, script(["say", "x"], ["wait", None], session_id="i"))
    async with asyncio.timeout(PATIENCE):
        while "interrupted" not in (await server.post("/stop", session_id="i"))["message"]:
            await asyncio.sleep(0.02)
    assert (await result_of(server, interrupted))["result"].startswith("CANCELED: ")
    unstartable = await begin(server, asked("x", model="broken"))
    assert (await result_of(server, unstartable))["result"].startswith("ADDONS_MISSING: ")

    # One that runs when the server is stopped, and one that does when it is killed.
    stopped = await begin(server, script(["say", "x"], ["wait", None], session_id="a"))
    assert await server.stop() == 0
    await successor.start()
    assert (await result_of(successor, task)) == done
    assert (await result_of(successor, stopped))["result"].startswith("SHUTTING_DOWN: ")
    kept = await begin(successor, script(["say", "x"], ["wait", None], session_id="b"))
    async with asyncio.timeout(PATIENCE):
        while (await successor.get(f"/process/task/{kept}"))["status"] != "running":
            await asyncio.sleep(0.02)
    await successor.kill()
    agentd.events.clear()
    await agentd.start()
    assert (await agentd.get(f"/process/task/{kept}"))["status"] == "running", "its worker goes on, and so does it"
    assert "interrupted" in (await agentd.post("/stop", session_id="b"))["message"]
    assert (await result_of(agentd, kept))["result"].startswith("CANCELED: ")
    assert (await result_of(agentd, failing)) == told
    assert faults(server) == []


async def test_the_examples_of_its_page(agentd: Agentd) -> None:
    await agentd.start()
    asked_first, interrupt, tasks = [
        block.replace("curl ", "curl -s ") for block in snippets(DOCS / "agentscope.md", "sh")
    ]
    output = await shell(asked_first, agentd.folder, A=agentd.address)
    frames = re.findall(r"^data: (.*)$", output, re.MULTILINE)
    assert frames.count("[DONE]") == 2
    assert "Alice" in json.loads(frames[-2])["output"][0]["content"][0]["text"]
    assert json.loads(await shell(interrupt, agentd.folder, A=agentd.address))["status"] == "success"
    begun, found = (await shell(tasks, agentd.folder, A=agentd.address)).split("}{")
    assert '"status":"submitted","queue":"friday"' in begun
    assert "RESPONSE_UNKNOWN" in found
