"""DocsGPT's clients against a real server: conversations, every refusal and failure, and what the demo agent shows."""

import asyncio
import contextlib
import io
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import jwt
import pytest

from supervisor.auth import Bounds
from tests.e2e.test_keys import Keys, keys
from tests.harness import Agentd
from tests.harness.chunks import Chunks
from tests.harness.scripted import graph
from tests.harness.server import PATIENCE
from tests.harness.talk import TALKER, client, faults, rows

__all__ = ["keys"]

ANSWER, STREAM = "/api/answer", "/stream"
CORS = "Content-Type, Authorization, Idempotency-Key"
GRAPHS: list[dict[str, Any]] = [
    TALKER,
    {**graph("mute", "zoo_mute"), "agentd": {"handles": ["invoke"]}},
    {**graph("dumb", "zoo_mute")},
    {**graph("data", "zoo_talker"), "agentd": {"structured": True}},
    {**graph("one", "zoo_talker"), "agentd": {"max_workers": 1}},
    graph("missing", "nobody_has_this"),
    graph("knows", "friday"),
]

Frame = dict[str, Any]


def script(*steps: list[Any], **more: Any) -> dict[str, Any]:
    """A question to the talker, who does what is passed through to it."""
    return {"question": "?", "passthrough": {"script": list(steps)}, **more}


@contextlib.asynccontextmanager
async def asked(agentd: Agentd, body: Any, status: int = 200, **headers: str) -> AsyncIterator[Chunks]:
    """A stream as it comes; leaving the block hangs up."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
        session.post(agentd.address + STREAM, json=body, headers=headers) as response,
    ):
        assert response.status == status, await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["Access-Control-Allow-Headers"] == CORS
        assert "Content-Encoding" not in response.headers
        assert ("Content-Length" in response.headers) is (status != 200)
        yield Chunks(response)


def frame_of(chunk: bytes) -> Frame:
    """The only frame in a chunk."""
    assert chunk.startswith(b'data: {"type": ')
    assert chunk.endswith(b"}\n\n")
    assert chunk.count(b"\n") == 2
    assert chunk.isascii()
    assert len(chunk) < 16 * 1024
    frame: Frame = json.loads(chunk[6:])
    return frame


async def stream(agentd: Agentd, body: Any, status: int = 200, **headers: str) -> list[Frame]:
    """All frames of a stream, which ends once and in order."""
    async with asked(agentd, body, status, **headers) as chunks:
        if status != 200:
            return [frame_of(await chunks.response.read())]
        frames = [frame_of(chunk) for chunk in await chunks.rest()]
    kinds = [frame["type"] for frame in frames]
    if kinds[-1] == "error":
        assert not {"id", "end"} & {*kinds}
    else:
        assert kinds[-2:] == ["id", "end"]
        assert kinds.count("id") == kinds.count("end") == kinds.count("tool_calls") == 1
    return frames


def text_of(frames: list[Frame]) -> str:
    return "".join(frame.get("answer", "") for frame in frames)


def id_of(frames: list[Frame]) -> str:
    return str(frames[-2]["id"])


async def answer(agentd: Agentd, body: Any, **headers: str) -> dict[str, Any]:
    """A good answer in one piece."""
    told = await agentd.request("POST", ANSWER, json=body, headers=headers)
    assert told.pop("status") == 200, told
    assert told.keys() >= {"conversation_id", "answer", "sources", "tool_calls", "thought"}
    assert "error" not in told
    return told


async def refused(agentd: Agentd, body: Any, **headers: str) -> tuple[int, str, int, str]:
    """A refusal by both endpoints: status and text of the plain one, and of the frame."""
    told = await agentd.request("POST", ANSWER, json=body, headers=headers)
    [frame] = await stream(agentd, body, told["status"], **headers)
    return told["status"], told.get("error") or told["message"], told["status"], frame["error"]


async def pid_of(agentd: Agentd, conversation: str) -> int:
    [pid] = [row["pid"] for row in (await agentd.get("/channels"))["channels"] if row["session"] == conversation]
    assert isinstance(pid, int)
    return pid


# ---------------------------------------------------------------------- whole turns


async def test_a_stream_and_an_answer_to_the_byte(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    steps = [
        ["think", "hm \u2028"],
        ["say", "Let me check. "],
        ["call", {"a": 1, "b": 2}],
        ["source", {"title": "Plan", "text": "x" * 101, "source": "plan.md", "filename": "plan.md"}],
        ["usage", [1, 2]],
        ["say", " é🥊\u2028\0"],
    ]
    async with asked(server, script(*steps)) as chunks:
        told = b"".join(await chunks.rest()).decode()
    conversation = id_of([json.loads(line[6:]) for line in told.splitlines() if line])
    assert str(UUID(conversation)) == conversation
    call = told.partition('"call_id": "')[2].partition('"')[0]
    listed = f'"tool_name": "add", "call_id": "{call}", "action_name": "add", "arguments": {{"a": 1, "b": 2}}'
    source = f'{{"title": "Plan", "text": "{"x" * 100}...", "source": "plan.md", "filename": "plan.md"}}'
    result = '"artifact_id": null, "result": "3", "status": "completed"'
    frames = [
        '{"type": "thought", "thought": "hm \\u2028"}',
        '{"type": "answer", "answer": "Let me check. "}',
        f'{{"type": "tool_call", "data": {{{listed}, "status": "pending"}}}}',
        f'{{"type": "tool_call", "data": {{{listed}, "result": "3", "status": "completed"}}}}',
        '{"type": "answer", "answer": "3"}',
        '{"type": "answer", "answer": " \\u00e9\\ud83e\\udd4a\\u2028\\u0000"}',
        f'{{"type": "source", "source": [{source}]}}',
        f'{{"type": "tool_calls", "tool_calls": [{{{listed}, {result}}}]}}',
        f'{{"type": "id", "id": "{conversation}"}}',
        '{"type": "end"}',
    ]
    assert told == "".join(f"data: {frame}\n\n" for frame in frames)
    plain = await answer(server, script(*steps))
    assert plain["answer"] == "Let me check. 3 é🥊\u2028\0"
    assert plain["thought"] == "hm \u2028"
    assert plain["sources"] == json.loads(frames[6])["source"]
    assert plain["tool_calls"][0] | {"call_id": call} == json.loads(frames[7])["tool_calls"][0]
    assert plain.keys() == {"conversation_id", "answer", "sources", "tool_calls", "thought"}
    assert faults(server) == []


async def test_what_the_agent_is_asked(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    hints = {"model_id": "m", "prompt_id": "default", "chunks": "2", "isNoneDoc": True, "active_docs": ["a"]}
    body = {"question": "half \ud83e", "passthrough": {"script": [["request", 0]]}, **hints, "embeddings_key": "x"}
    request = json.loads((await answer(server, body))["answer"])
    assert request["question"] == "half \ufffd"
    assert request["user"] == "local"
    assert request["options"] == hints
    assert str(UUID(request["session"])) == request["session"]
    # Of an agent whose graph says that its answers are data, no text is told.
    data = {**body, "agent_id": "data", "passthrough": {"script": [["say", "so "], ["structured", {"a": 1}]]}}
    frames = await stream(server, data)
    assert [frame["type"] for frame in frames] == ["tool_calls", "structured_answer", "id", "end"]
    plain = await answer(server, data)
    assert (plain["answer"], plain["structured"], plain["schema"]) == ('{"a":1}', True, None)
    assert faults(server) == []


async def test_long_answers_come_in_whole_frames(agentd: Agentd) -> None:
    """Also in such pieces as a client reads at once, which has no buffer between them."""
    server = await agentd.start(graphs=GRAPHS)
    for steps in ([["final", "🥊" * 30_000]], [["pieces", ["x" * 16_000, "é" * 5_000, "\0" * 3_000]]]):
        frames = await stream(server, script(*steps))
        plain = await answer(server, script(*steps))
        assert text_of(frames) == plain["answer"]
        assert len(text_of(frames)) in (30_000, 24_000)
    assert faults(server) == []


async def test_one_connection_serves_a_whole_conversation(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    async with client(server, window=256 * 1024) as reader:
        conversation = None
        for number in range(3):
            data = json.dumps(script(["say", f"{number}"], conversation_id=conversation)).encode()
            head = f"POST {STREAM} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json; charset=utf-8\r\n"
            await reader.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            assert (await reader.head()).startswith(b"HTTP/1.1 200 ")
            frames = []
            while size := int(await reader._until(b"\r\n"), 16):
                while len(reader._rest) < size + 2:
                    await reader._read()
                frames.append(frame_of(reader._rest[:size]))
                reader._rest = reader._rest[size + 2 :]
            assert await reader._until(b"\r\n") == b"", "nothing follows the end of the body"
            assert text_of(frames) == f"{number}"
            conversation = id_of(frames)
    assert faults(server) == []


# ---------------------------------------------------------------------- conversations


async def test_a_conversation_goes_on(agentd: Agentd) -> None:
    """By both endpoints, over the death of its worker, and of the server."""
    server = await agentd.start(AGENTD_DEFAULT_GRAPH="demo")
    first = await stream(server, {"question": "My name is Ada.", "conversation_id": None, "history": "[]"})
    name = id_of(first)
    told = await answer(server, {"question": "What is my name?", "conversation_id": name})
    assert ("Ada" in told["answer"], told["conversation_id"]) == (True, name)
    os.kill(await pid_of(server, name), signal.SIGKILL)
    await server.event("channel.gone")
    assert "Ada" in text_of(await stream(server, {"question": "What is my name?", "conversation_id": name}))
    await server.stop()
    server.events.clear()
    await server.start(AGENTD_DEFAULT_GRAPH="demo")
    frames = await stream(server, {"question": "What is my name?", "conversation_id": name.upper()})
    assert ("Ada" in text_of(frames), id_of(frames)) == (True, name)
    # Another conversation knows nothing of it; a history that comes along is known.
    assert "Ada" not in (await answer(server, {"question": "What is my name?"}))["answer"]
    history = [{"prompt": "My name is Bob.", "response": "Hi."}, {"prompt": "What is my name?"}]
    for given in (history, json.dumps(history)):
        told = await answer(server, {"question": "What is my name?", "history": given})
        assert "Bob" in told["answer"]
        more = {"question": "What is my name?", "conversation_id": told["conversation_id"]}
        assert "Bob" in (await answer(server, more))["answer"]
        assert "Bob" not in (await answer(server, {**more, "conversation_id": name, "history": given}))["answer"]
    assert faults(server) == []


def last(frames: list[Frame]) -> list[str]:
    """The texts of a history that was told."""
    text = text_of(frames)
    return [part.partition(": ")[2] for part in text.split(" | ")] if text else []


HISTORY: list[Any] = ["history", 0]


async def test_a_turn_takes_the_place_of_another(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    name = id_of(await stream(server, script(["say", "a0"], question="q0")))
    for number in (1, 2):
        await stream(server, script(["say", f"a{number}"], question=f"q{number}", conversation_id=name))
    # The one at the place and all behind it are not known to it, nor to any after it.
    again = script(HISTORY, question="p1", conversation_id=name, index=1)
    assert last(await stream(server, again)) == ["q0", "a0"]
    look = script(HISTORY, conversation_id=name, save_conversation=False)
    assert last(await stream(server, look)) == ["q0", "a0", "p1", "user: q0", "a0"], "its answer is the history it had"
    # Beyond the end it is added. One that fails takes nobody's place.
    await stream(server, script(["raise", "no"], conversation_id=name, index=0))
    await stream(server, script(["say", "a9"], question="q9", conversation_id=name, index=99))
    texts = last(await stream(server, look))
    assert texts[:2] == ["q0", "a0"]
    assert texts[-2:] == ["q9", "a9"]
    before = len(server.events)
    os.kill(await pid_of(server, name), signal.SIGKILL)
    await server.event("channel.gone", after=before)
    assert last(await stream(server, look)) == texts
    # The very first one.
    await stream(server, script(["say", "c0"], question="r0", conversation_id=name, index=0))
    assert last(await stream(server, script(HISTORY, conversation_id=name))) == ["r0", "c0"]
    assert faults(server) == []


async def test_the_demo_forgets_what_was_taken_back(agentd: Agentd) -> None:
    server = await agentd.start(AGENTD_DEFAULT_GRAPH="demo")
    name = id_of(await stream(server, {"question": "My name is Ada."}))
    told = await stream(server, {"question": "What is my name?", "conversation_id": name, "index": 0})
    assert "do not know" in text_of(told)


async def test_what_is_not_to_be_saved(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    frames = await stream(server, script(["say", "so"], save_conversation=False))
    assert (id_of(frames), text_of(frames)) == ("None", "so")
    assert (await answer(server, script(["say", "so"], save_conversation=False)))["conversation_id"] == "None"
    assert rows(server.state_dir / "store.db", "turns") == []
    name = id_of(await stream(server, script(["say", "a0"], question="q0")))
    aside = await stream(server, script(HISTORY, conversation_id=name, save_conversation=False))
    assert (last(aside), id_of(aside)) == (["q0", "a0"], "None")
    assert last(await stream(server, script(HISTORY, conversation_id=name))) == ["q0", "a0"]
    assert len(rows(server.state_dir / "store.db", "turns")) == 2
    assert faults(server) == []


async def test_a_client_that_hangs_up(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    name = id_of(await stream(server, script(["say", "a0"], question="q0")))
    for steps, more in (
        ([["say", "half "], ["wait", None]], ["q1", "half "]),  # with the text so far
        ([["think", "hm"], ["wait", None]], []),  # there is none
    ):
        async with asked(server, script(*steps, question="q1", conversation_id=name)) as chunks:
            await chunks.next()
        texts = last(await stream(server, script(HISTORY, conversation_id=name, save_conversation=False)))
        assert texts == ["q0", "a0", "q1", "half "], more
    # Also one who waits for the whole answer.
    async with aiohttp.ClientSession() as session:
        before = len(server.events)
        body = script(["wait", None], conversation_id=name)
        ask = asyncio.create_task(session.post(server.address + ANSWER, json=body))
        async with asyncio.timeout(PATIENCE):
            while not any(row["turn"] for row in (await server.get("/channels"))["channels"]):
                await asyncio.sleep(0.01)
        ask.cancel()
        await asyncio.wait({ask})
        await server.event("http.request", lambda e: e["path"] == ANSWER and e["status"] == 499, before)
    assert last(await stream(server, script(HISTORY, conversation_id=name)))[-1] == "half "
    assert faults(server) == []


async def test_turns_of_one_conversation_wait_for_each_other(agentd: Agentd) -> None:
    """In the order they came; one too many is refused."""
    server = await agentd.start(graphs=GRAPHS, AGENTD_SESSION_QUEUE="1", AGENTD_SESSION_WAIT_SECONDS="20")
    name = id_of(await stream(server, script(["say", "a0"], question="q0")))
    async with asked(
        server, script(["say", "a1"], ["paced", [1000, 0.01]], question="q1", conversation_id=name)
    ) as one:
        await one.next()
        # Of two more one waits, and the other one is refused for that.
        ask = script(HISTORY, question="q2", conversation_id=name)
        both = {asyncio.create_task(server.post(ANSWER, ask)) for _ in range(2)}
        done, waiting = await asyncio.wait(both, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        told = done.pop().result()
        assert (told["status"], told.keys()) == (409, {"status", "error"})
        [frame] = await stream(server, ask, 409)
        assert frame["type"] == "error"
        other = await stream(server, script(["say", "free"]))
        assert text_of(other) == "free", "other conversations do not wait"
    told = await waiting.pop()
    assert last([told])[:3] == ["q0", "a0", "q1"]
    assert faults(server) == []


# ---------------------------------------------------------------------- refusals and failures


async def test_the_shape_of_requests(agentd: Agentd) -> None:
    """JSON on both endpoints, whatever is asked; in the order of the checks."""
    server = await agentd.start(graphs=GRAPHS, AGENTD_BODY_LIMIT_BYTES="100000")
    json_type = {"Content-Type": "application/json"}
    for path in (ANSWER, STREAM):
        for data, headers, status, told in (
            (b"{}", {"Content-Type": "text/plain"}, 415, None),
            (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 415, None),
            (b"{", {"Content-Type": "multipart/form-data; boundary=x"}, 415, None),
            (b"", json_type, 400, None),
            (b"{", json_type, 400, None),
            (b"[]", json_type, 400, None),
            (b"[" * 100_000, json_type, 400, None),
            (b'{"question": "\xff"}', json_type, 400, None),
            (b'{"a": "%b"}' % (b"x" * 16 * 1024 * 1024), json_type, 413, None),
            (b"{}", json_type, 400, {"success": False, "message": "Missing required fields: question"}),
            (b'{"question": 7}', json_type, 400, {"success": False, "message": "question must be a string"}),
            (b'{"question": "q", "tool_actions": []}', json_type, 400, {"error": "tool_actions is not supported"}),
        ):
            found = await server.request("POST", path, data=io.BytesIO(data), headers=headers)
            assert found.pop("status") == status, (path, data[:40], found)
            if status == 413:
                assert found["success"] is False
            if told is not None:
                assert found == told
            elif status != 413:
                assert found.keys() == {"message"}
        for method in ("GET", "PUT", "DELETE"):
            assert (await server.request(method, path))["status"] == 405
        for missing in (f"{path}/", f"{path}/x"):
            assert (await server.request("POST", missing, json={}))["status"] == 404
    # What is below 16 MiB is taken, whatever the limit of other APIs is.
    history = json.dumps([{"prompt": "My name is Ada.", "response": "x" * 1_500_000}] * 10)
    assert len(history) > 15_000_000
    body = io.BytesIO(json.dumps({"question": "What is my name?", "agent_id": "knows", "history": history}).encode())
    told = await server.request("POST", ANSWER, data=body, headers=json_type)
    assert "Ada" in told["answer"]
    async with (
        aiohttp.ClientSession() as session,
        session.options(server.address + STREAM, headers={"Origin": "https://a.b"}) as reply,
    ):
        assert (reply.status, await reply.read()) == (200, b"")
        assert reply.headers["Access-Control-Allow-Headers"] == CORS
    assert await server.get("/api/health") == {"status": "ok"}
    assert faults(server) == []


async def test_who_may_ask_what(agentd: Agentd, keys: Keys) -> None:
    alice = keys.add(user="alice", graph="talker")["Authorization"][7:]
    again = keys.add(user="alice")["Authorization"][7:]
    bob = keys.add(user="bob")["Authorization"][7:]
    server = await agentd.start(graphs=GRAPHS, AGENTD_DEFAULT_GRAPH="talker")
    ask = script(["request", 0])
    told = await answer(server, {**ask, "api_key": alice})
    assert json.loads(told["answer"])["user"] == "alice"
    name = told["conversation_id"]
    # The key in the header counts as well, the one in the body counts more.
    assert json.loads((await answer(server, ask, Authorization=f"Bearer {bob}"))["answer"])["user"] == "bob"
    both = await answer(server, {**ask, "api_key": alice}, Authorization=f"Bearer {bob}")
    assert json.loads(both["answer"])["user"] == "alice"
    # A conversation is the user's, whichever key and agent; to others it is not there.
    assert (await answer(server, {**ask, "api_key": again, "conversation_id": name}))["conversation_id"] == name
    refusals: list[tuple[dict[str, Any], int, str]] = [
        ({"api_key": "nobody"}, 401, "Invalid API key"),
        ({"api_key": "nobody", "conversation_id": "x"}, 401, "Invalid API key"),
        ({}, 401, "Unauthorized"),
        ({"api_key": None, "conversation_id": "x"}, 401, "Unauthorized"),
        ({"api_key": bob, "conversation_id": name}, 400, "Conversation not found"),
        ({"api_key": alice, "conversation_id": str(uuid4())}, 400, "Conversation not found"),
        ({"api_key": alice, "conversation_id": "x", "save_conversation": False}, 400, "Conversation not found"),
    ]
    for more, status, text in refusals:
        assert await refused(server, {**ask, **more}) == (status, text, status, text), more
    for agent in ("nobody", "mute"):
        header = {"Authorization": f"Bearer {bob}"}
        assert await refused(server, {**ask, "agent_id": agent}, **header) == (401, "Unauthorized") * 2
        assert (await answer(server, {**ask, "agent_id": agent, "api_key": bob}))["answer"], "a key decides"
    assert (await server.get("/api/health"))["status"] == "ok"
    assert faults(server) == []


async def test_the_limit_of_a_key(agentd: Agentd, keys: Keys) -> None:
    key = keys.add(user="shop", bounds=Bounds(turns_per_minute=1))["Authorization"][7:]
    server = await agentd.start(graphs=GRAPHS)
    name = (await answer(server, script(["say", "a0"], api_key=key)))["conversation_id"]
    text = "Exceeding usage limit, please try again later."
    for more in ({}, {"conversation_id": name}):
        assert await refused(server, script(["say", "x"], api_key=key, **more)) == (429, text, 429, text)
    for unknown in (str(uuid4()), "x"):  # goes before the limit
        status, said, _, framed = await refused(server, script(["say", "x"], api_key=key, conversation_id=unknown))
        assert (status, said, framed) == (400, "Conversation not found", "Conversation not found")
    assert faults(server) == []


async def test_tokens_of_users(agentd: Agentd, keys: Keys) -> None:
    secret = "a secret of thirty-two bytes at least"
    key = keys.add(user="shop", graph="talker")["Authorization"][7:]
    server = await agentd.start(graphs=GRAPHS, AGENTD_DEFAULT_GRAPH="talker", AGENTD_JWT_SECRET=secret)

    def token(**claims: Any) -> str:
        return jwt.encode(claims, secret, algorithm="HS256")

    ask, good = script(["request", 0]), token(sub="ada@example.com", exp=2**32)
    for header in (f"Bearer {good}", good):
        told = await answer(server, ask, Authorization=header)
        assert json.loads(told["answer"])["user"] == "ada@example.com"
    told = await answer(server, {**ask, "agent_id": "knows", "question": "Who are you?"}, Authorization=good)
    assert "Friday" in told["answer"]
    both = await answer(server, {**ask, "api_key": key, "agent_id": "nobody"}, Authorization=good)
    assert json.loads(both["answer"])["user"] == "shop"
    invalid = {"status": 401, "message": "Authentication error: invalid token", "error": "invalid_token"}
    expired = {"status": 401, "message": "Authentication error: token expired", "error": "token_expired"}
    for bad, body in (
        (token(sub="ada", exp=1), expired),
        (token(sub=""), invalid),
        (token(user="ada"), invalid),
        (jwt.encode({"sub": "ada"}, "another " + secret, algorithm="HS256"), invalid),
        ("junk", invalid),
    ):
        for path in (ANSWER, STREAM, "/api/feedback"):
            headers = {"Authorization": f"Bearer {bad}"}
            assert await server.request("POST", path, json={**ask, "api_key": key}, headers=headers) == body
    assert faults(server) == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_every_failure_ends_the_turn(agentd: Agentd, streamed: bool) -> None:
    server = await agentd.start(graphs=GRAPHS, AGENTD_TURN_SILENCE_SECONDS="0.5", WORKER_START_TIMEOUT_SECONDS="5")

    async def fails(*steps: list[Any], status: int, **more: Any) -> str:
        # What a worker says just before it kills itself may never have left it.
        body = script(["think", "hm"], ["say", "half "], ["paced", [1, 0.1]], *steps, **more)
        if not streamed:
            told = await server.post(ANSWER, body)
            assert (told["status"], told.keys()) == (status, {"status", "error"}), told
            return str(told["error"])
        frames = await stream(server, body)
        assert [frame["type"] for frame in frames[:2]] == ["thought", "answer"]
        assert frames[-1]["type"] == "error"
        return str(frames[-1]["error"])

    name = (await answer(server, script(["say", "a0"], question="q0")))["conversation_id"]
    assert await fails(["raise", "no luck at /srv/agents/plan.txt"], status=400) == "no luck at plan.txt"
    assert await fails(["die", "exit"], status=500, conversation_id=name) == "worker exited with code 7"
    assert await fails(["die", "kill"], status=500) == "worker was killed by signal 9"
    assert await fails(["wait", None], status=500) == "nothing said for 0.5 s"
    assert await fails(["deaf", None], status=500) == "nothing said for 0.5 s"
    assert await fails(["huge", 70], status=500)
    assert await fails(["yield", 7], status=500)
    # With the text so far it is in the history; the conversation goes on with a new worker.
    told = await answer(server, script(HISTORY, conversation_id=name))
    assert told["answer"].endswith("assistant: half 0 ")
    assert faults(server) == []


async def test_a_worker_that_is_killed_in_the_middle(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    name = id_of(await stream(server, script(["say", "a0"])))
    async with asked(server, script(["paced", [10_000, 0.01]], conversation_id=name)) as chunks:
        assert frame_of(await chunks.next())["type"] == "answer"
        os.kill(await pid_of(server, name), signal.SIGKILL)
        frames = [frame_of(chunk) for chunk in await chunks.rest()]
    assert frames[-1] == {"type": "error", "error": "worker was killed by signal 9"}
    assert text_of(await stream(server, script(["say", "well"], conversation_id=name))) == "well"
    assert faults(server) == []


async def test_no_worker_can_be_started(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    async with asked(server, script(["say", "on"], ["paced", [10_000, 0.01]], agent_id="one")) as one:
        await one.next()
        status, text, _, framed = await refused(server, script(agent_id="one"))
        assert (status, framed) == (503, text)
        async with (
            aiohttp.ClientSession() as session,
            session.post(server.address + STREAM, json=script(agent_id="one")) as response,
        ):
            assert (response.status, int(response.headers["Retry-After"]) > 0) == (503, True)
    # What nobody can mend by waiting is no 503, and tells nothing of the server.
    status, text, _, framed = await refused(server, script(agent_id="missing"))
    assert (status, framed) == (500, text)
    assert "nobody_has_this" not in text
    told = await server.post(ANSWER, script(agent_id="dumb"))
    assert (told["status"], told["error"]) == (500, "no node of the graph answers turns of this kind")
    assert faults(server) == []


# ---------------------------------------------------------------------- the demo agent, feedback


async def test_the_demo_agent(agentd: Agentd, keys: Keys) -> None:
    key = keys.add(user="demo", graph="demo")["Authorization"][7:]
    server = await agentd.start()
    frames = await stream(server, {"question": "Who are you?", "api_key": key})
    assert [frame["type"] for frame in frames].count("answer") > 5
    assert "do not know your name" in text_of(await stream(server, {"question": "What is my name?", "api_key": key}))
    frames = await stream(server, {"question": "Is meeting room 12 free?", "api_key": key})
    kinds = list(dict.fromkeys(frame["type"] for frame in frames))
    assert kinds == ["tool_call", "answer", "source", "tool_calls", "id", "end"]
    [begun, ended] = [frame["data"] for frame in frames if frame["type"] == "tool_call"]
    assert (begun["status"], ended["status"], begun["arguments"]) == ("pending", "completed", {"room": 12})
    [[source], [call]] = [frame[kind] for frame in frames for kind in ("source", "tool_calls") if kind in frame]
    assert source["source"] == "meeting-rooms.md"
    assert call == {**ended, "artifact_id": None}
    # Files that are not there are told of, and the answer comes all the same.
    frames = await stream(server, {"question": "Describe this image", "api_key": key, "attachments": ["x", "y"]})
    assert frames[0] == {"type": "notice", "notice": "2 attachments were not found and were left out"}
    assert "no file" in text_of(frames)


async def test_feedback(agentd: Agentd, keys: Keys) -> None:
    alice, bob = (keys.add(user=user)["Authorization"][7:] for user in ("alice", "bob"))
    server = await agentd.start(graphs=GRAPHS)
    name = (await answer(server, script(["say", "a0"], api_key=alice)))["conversation_id"]
    good = {"feedback": "LIKE", "api_key": alice, "conversation_id": name, "question_index": 0, "question": "?"}
    for opinion in ("LIKE", "DISLIKE", None):
        assert await server.post("/api/feedback", {**good, "feedback": opinion}) == {"status": 200, "success": True}
        await server.event("docsgpt.feedback", lambda event, told=opinion: event["feedback"] == told)  # type: ignore[misc]
    for changed, status in (
        ({"api_key": bob}, 404),
        ({"conversation_id": str(uuid4())}, 404),
        ({"conversation_id": "x"}, 404),
        ({"api_key": "nobody"}, 401),
        ({"api_key": ""}, 401),
        ({"question_index": None}, 400),
        ({"feedback": "GREAT"}, 400),
    ):
        told = await server.post("/api/feedback", {**good, **changed})
        assert told["status"] == status, (changed, told)
        assert told.get("message") or told.get("error")
    assert faults(server) == []
