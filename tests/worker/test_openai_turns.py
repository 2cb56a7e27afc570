"""`openai_chatgpt` in real workers, against a real server on loopback: what goes well."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.openai_server import OpenAIServer, bytewise, calls, deltas, slow, status, words
from tests.harness.openai_worker import OpenAIWorker, text

ROOT = Path(__file__).parents[2]
SEARCH = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
ROOMS = """
import asyncio
from worker.addons.openai_chatgpt import OpenAIChatGPT
from worker.agent import tool

class Rooms(OpenAIChatGPT):
    def __init__(self, context):
        super().__init__(context)
        self.both = asyncio.Barrier(2)

    @tool
    async def room(self, number: int) -> str:
        "Whether a room is free."
        return f"room {number} is free"

    @tool
    async def meet(self, name: str) -> dict:
        "Waits until it is called twice at once."
        await self.both.wait()
        return {"met": name}

    @tool
    def broken(self) -> str:
        "Does not work."
        raise ValueError("no line to the house")
"""


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer().running() as server:
        yield server


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[OpenAIWorker]:
    worker = OpenAIWorker(tmp_path / "channel")
    yield worker
    await worker.close()


async def rooms(worker: OpenAIWorker, server: OpenAIServer, **properties: Any) -> OpenAIWorker:
    """The worker with an agent that has tools of its own."""
    (worker.folder / "rooms_addon.py").write_text(ROOMS)
    return await worker.start(
        {"base_url": server.url, **properties},
        addon="rooms",
        addons={"rooms": "rooms_addon:Rooms"},
        path=worker.folder,
    )


async def test_an_answer_is_streamed(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url, "api_key": "sk-1", "model": "m", "prompt": "Be kind."})
    server.will(words("Hel", "lo"))
    events = await worker.turn("hi")
    final = events.pop()
    assert events == [
        {"type": "text", "text": "Hel"},
        {"type": "text", "text": "lo"},
        {
            "type": "usage",
            "input_tokens": 9,
            "output_tokens": 4,
            "total_tokens": 13,
            "model": "m-2024",
            "cached_tokens": 2,
            "reasoning_tokens": 1,
        },
    ]
    assert final.pop("ms") > 0
    assert final == {"type": "final"}
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.7,
            "max_tokens": 512,
        }
    ]
    assert server.exchanges[0].request.headers["Authorization"] == "Bearer sk-1"
    assert await worker.stop() == 0


async def test_connections_are_kept(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url})
    for _ in range(3):
        await worker.turn()
    assert len({exchange.peer for exchange in server.exchanges}) == 1


async def test_the_model_is_shown_the_whole_turn(worker: OpenAIWorker, server: OpenAIServer, tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(b"\x89PNG")
    await worker.start({"base_url": server.url, "prompt": "P", "max_memory_length": 2, "top_p": 0.5})
    await worker.turn(
        "What is it?",
        history=[{"role": role, "content": f"{role} {n}"} for n in range(3) for role in ("user", "assistant")],
        instructions="I",
        attachments=[
            {"id": "1", "name": "n.txt", "mime_type": "text/plain", "path": "/nowhere", "text": "noted"},
            {"id": "2", "name": "dot.png", "mime_type": "image/png", "path": str(tmp_path / "dot.png")},
        ],
        options={"temperature": 0, "max_output_tokens": 5, "stop": ["x"], "seed": 1, "model": "no", "top_k": 4},
    )
    [body] = server.bodies
    assert body["messages"] == [
        {"role": "system", "content": "P\n\nI"},
        {"role": "user", "content": "user 2"},
        {"role": "assistant", "content": "assistant 2"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "text", "text": "File n.txt:\nnoted"},
                {
                    "type": "image_url",
                    "image_url": {"url": f"data:image/png;base64,{base64.b64encode(bytes([137]) + b'PNG').decode()}"},
                },
            ],
        },
    ]
    asked = {name: body[name] for name in ("model", "temperature", "top_p", "max_tokens", "stop", "seed")}
    assert asked == {"model": "gpt-4o", "temperature": 0, "top_p": 0.5, "max_tokens": 5, "stop": ["x"], "seed": 1}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (deltas({"reasoning_content": "hm"}, {"content": "a"}), [("thought", "hm"), ("text", "a")]),
        (deltas({"reasoning": "hm"}, {"content": "a"}), [("thought", "hm"), ("text", "a")]),
        (deltas({"refusal": "No."}), [("text", "No.")]),
        (bytewise("grüß", " dich 🙂"), [("text", "grüß"), ("text", " dich 🙂")]),
        (words(), []),
    ],
)
async def test_what_is_said(worker: OpenAIWorker, server: OpenAIServer, reply: Any, expected: Any) -> None:
    await worker.start({"base_url": server.url})
    server.will(reply)
    events = await worker.turn()
    assert [(event["type"], event["text"]) for event in events if "text" in event] == expected
    assert [event["type"] for event in events[-2:]] == ["usage", "final"]
    assert "value" not in events[-1]


async def test_an_answer_that_was_cut_says_so(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url})
    server.will(words("cut", finish="length"))
    events = await worker.turn()
    assert text(events) == "cut"
    assert events[-1]["value"] == {"incomplete": "max_output_tokens"}


async def test_a_slow_first_token_is_waited_for(worker: OpenAIWorker, server: OpenAIServer) -> None:
    gate = asyncio.Event()
    await worker.start({"base_url": server.url})
    server.will(slow(gate, "late"))
    turn = worker.ask()
    await server.exchange(0)
    assert worker.events(turn) == []
    gate.set()
    assert text(await worker.ended(turn)) == "late"


async def test_a_server_that_needs_no_key_gets_none(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url, "api_key": ""}, addon="openai_chatgpt_python")
    await worker.turn()
    assert server.exchanges[0].request.headers["Authorization"] == "Bearer none"


async def test_odd_base_urls(worker: OpenAIWorker, server: OpenAIServer) -> None:
    """Each by an update of the live worker, which makes a client of its own."""
    host = f"http://127.0.0.1:{server.port}"
    await worker.start({"base_url": server.url})
    for number, (given, path, query) in enumerate(
        [
            ("/v1", "/v1/chat/completions", {}),
            ("/v1/", "/v1/chat/completions", {}),
            ("", "/chat/completions", {}),
            ("/", "/chat/completions", {}),
            ("/deep/er/v1/", "/deep/er/v1/chat/completions", {}),
            ("/v1?api-version=2024&x=%2F", "/v1/chat/completions", {"api-version": "2024", "x": "/"}),
            ("/v1#there", "/v1/chat/completions", {}),
            ("/a%20b/v1", "/a b/v1/chat/completions", {}),
        ]
    ):
        worker.tell({"t": "update", "id": number, "properties": {"model": {"base_url": host + given}}})
        reply = await worker.frame(lambda frame, number=number: frame["t"] == "reply" and frame["id"] == number)
        assert reply["ok"], reply
        assert text(await worker.turn()) == "Hello there."
        request = server.exchanges[-1].request
        assert (request.path, dict(request.query)) == (path, query), given
    assert len({exchange.peer for exchange in server.exchanges}) == len(server.exchanges)


async def test_a_user_in_the_url_is_basic_authentication(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url.replace("//", "//ada:secret99@")})
    await worker.turn()
    expected = base64.b64encode(b"ada:secret99").decode()
    assert server.exchanges[0].request.headers["Authorization"] == f"Basic {expected}"


async def test_an_update_that_does_not_fit_changes_nothing(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url, "model": "m"})
    worker.tell({"t": "update", "id": 1, "properties": {"model": {"temperature": 9, "model": "n"}}})
    reply = await worker.frame(lambda frame: frame["t"] == "reply")
    assert not reply["ok"]
    assert "temperature" in reply["error"]
    await worker.turn()
    assert server.bodies[0]["model"] == "m"


async def test_what_a_server_refuses_is_done_without(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url, "retries": 0})
    server.refused = frozenset({"stream_options"})
    server.will(
        status(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        status(400, "Unsupported value: 'temperature' does not support 0.7 with this model."),
    )
    assert [event["type"] for event in await worker.turn()] == ["text", "text", "text", "final"]
    assert len(server.bodies) == 4
    assert server.bodies[-1].keys() == {"model", "messages", "stream", "max_completion_tokens"}
    await worker.turn()
    assert server.bodies[-1].keys() == {"model", "messages", "stream", "max_completion_tokens"}
    assert len(server.bodies) == 5


@pytest.mark.parametrize("connected", [True, False])
async def test_the_greeting_goes_along_the_connections(worker: OpenAIWorker, connected: bool) -> None:
    connection = {"extension": "model", "data": [{"name": "text_data", "dest": [{"extension": "collector"}]}]}
    await worker.start(
        {"greeting": "Hello, how can I help you?"},
        nodes=[{"type": "extension", "name": "collector", "addon": "message_collector", "property": {}}],
        connections=[connection] if connected else [],
    )
    if connected:
        signal = await worker.frame(lambda frame: frame["t"] == "signal")
        assert (signal["node"], signal["text"]) == ("collector", "Hello, how can I help you?")
        assert signal["role"] == "assistant"
    assert await worker.stop() == 0
    assert len([frame for frame in worker.frames if frame["t"] == "signal"]) == connected


async def test_the_shipped_graph_tells_what_was_said(worker: OpenAIWorker, server: OpenAIServer) -> None:
    graph = json.loads((ROOT / "graphs" / "camera_va_openai_azure.json").read_text())
    [model, collector] = graph["nodes"]
    properties = model["property"] | {"base_url": server.url, "api_key": "sk-1"}
    await worker.start(properties, name=model["name"], nodes=[collector], connections=graph["connections"])
    await worker.turn("Who is there?")
    await worker.frame(lambda frame: frame.get("text") == "Hello there." and frame["t"] == "signal")
    assert [(frame["role"], frame["text"]) for frame in worker.frames if frame["t"] == "signal"] == [
        ("assistant", "Hello, how can I help you today?"),
        ("user", "Who is there?"),
        ("assistant", "Hello there."),
    ]
    assert server.bodies[0]["model"] == "gpt-4o-mini"


# ---------------------------------------------------------------------- tools


def tool_events(events: Any) -> Any:
    return [
        (event["type"], event["name"], event.get("arguments", event.get("output")))
        for event in events
        if event["type"].startswith("tool_")
    ]


async def test_tools_run_and_their_results_go_back(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await rooms(worker, server)
    server.will(calls(("room", '{"number": 4}'), said="Let me look. "), words("Room 4", " is free."))
    events = await worker.turn("Is room 4 free?")
    assert [event["type"] for event in events] == [
        *("text", "usage", "tool_call", "tool_result", "text", "text", "usage", "final")
    ]
    assert tool_events(events) == [("tool_call", "room", {"number": 4}), ("tool_result", "room", "room 4 is free")]
    first, second = server.bodies
    assert {tool["function"]["name"]: tool["function"]["parameters"] for tool in first["tools"]}["room"] == {
        "type": "object",
        "properties": {"number": {"type": "integer"}},
        "required": ["number"],
        "additionalProperties": False,
    }
    assert second["messages"] == [
        {"role": "user", "content": "Is room 4 free?"},
        {
            "role": "assistant",
            "content": "Let me look. ",
            "tool_calls": [
                {"id": "call_1_0", "type": "function", "function": {"name": "room", "arguments": '{"number": 4}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1_0", "content": "room 4 is free"},
    ]


async def test_calls_of_one_answer_run_at_once_and_are_answered_in_order(
    worker: OpenAIWorker, server: OpenAIServer
) -> None:
    await rooms(worker, server)
    server.will(calls(("meet", '{"name": "a"}'), ("meet", '{"name": "b"}')))
    assert text(await worker.turn()) == "Hello there."
    assert [message["content"] for message in server.bodies[1]["messages"][2:]] == ['{"met": "a"}', '{"met": "b"}']


async def test_the_model_is_told_what_was_wrong_with_a_call(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await rooms(worker, server)
    server.will(
        calls(
            ("room", "{"),
            ("room", '{"number": "four"}'),
            ("rome", "{}"),
            ("broken", "{}"),
            ("room", "[4]"),
            ids=False,
        )
    )
    events = await worker.turn()
    assert text(events) == "Hello there."
    answers = [message["content"] for message in server.bodies[1]["messages"] if message["role"] == "tool"]
    expected = [
        "error: the arguments are no JSON: ",
        "error: tool 'room': parameter 'number': ",
        "error: there is no tool 'rome'; there are: ",
        "error: tool 'broken': ValueError: no line to the house",
        "error: the arguments are an object, not [4]",
    ]
    assert [answer[: len(start)] for answer, start in zip(answers, expected, strict=True)] == expected
    results = [event for event in events if event["type"] == "tool_result"]
    assert [result["failed"] for result in results] == [True] * 5
    assert len({result["id"] for result in results}) == 5


async def test_a_call_is_forced_once(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await rooms(worker, server)
    server.will(calls(("room", '{"number": 4}')))
    await worker.turn(options={"tool_choice": "required", "parallel_tool_calls": False})
    assert [body.get("tool_choice") for body in server.bodies] == ["required", None]
    assert [body["parallel_tool_calls"] for body in server.bodies] == [False, False]


async def test_choices_of_tools_are_not_sent_without_tools(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url})
    await worker.turn(options={"tool_choice": "auto", "parallel_tool_calls": False})
    assert server.bodies[0].keys() & {"tools", "tool_choice", "parallel_tool_calls"} == set()


async def test_rounds_of_tools_are_bounded(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await rooms(worker, server, max_tool_rounds=2)
    server.default = calls(("room", '{"number": 4}'))
    error = (await worker.turn())[-1]
    assert (error["cause"], error["kind"]) == ("agent_error", "ToolRoundsError")
    assert "max_tool_rounds" in error["message"]
    assert len(server.bodies) == 3


@pytest.mark.parametrize("moved", [False, True])
async def test_calls_of_the_clients_tools_end_the_turn_and_are_answered_by_the_next(
    worker: OpenAIWorker, server: OpenAIServer, tmp_path: Path, moved: bool
) -> None:
    """Also when another worker has the next turn, which gets the state from the store."""
    await rooms(worker, server, tools=[SEARCH])
    server.will(calls(("search", '{"q": "x"}'), ("room", '{"number": 4}'), said="Wait."))
    events = await worker.turn("Find x.")
    call = {"id": "call_1_0", "name": "search", "arguments": {"q": "x"}}
    assert tool_events(events) == [
        ("tool_call", "room", {"number": 4}),
        ("tool_result", "room", "room 4 is free"),
        ("tool_call", "search", {"q": "x"}),
    ]
    assert events[-1]["value"] == {"tool_calls": [call]}
    state = events[-1]["state"]
    next_turn = {
        "messages": [{"role": "tool", "tool_call_id": "call_1_0", "content": "found"}],
        "history": [{"role": "user", "content": "Find x."}, {"role": "assistant", "content": "Wait."}],
    }
    other = OpenAIWorker(tmp_path / "other")
    try:
        if moved:
            await rooms(other, server, tools=[SEARCH])
            events = await other.turn(**next_turn, state=state)
        else:
            events = await worker.turn(**next_turn)
    finally:
        await other.close()
    assert text(events) == "Hello there.", events
    assert events[-1]["state"] == {}
    messages = server.bodies[1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert [len(message.get("tool_calls", ())) for message in messages] == [0, 2, 0, 0]
    assert [message["content"] for message in messages[1:]] == ["Wait.", "room 4 is free", "found"]


async def test_calls_that_nobody_answers_are_forgotten(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url})
    server.will(calls(("search", "{}")), status(400, "no"))
    await worker.turn(options={"tools": [SEARCH]})
    assert (await worker.turn("never mind"))[-1]["type"] == "error"  # a failed turn changes nothing
    assert (await worker.turn("never mind"))[-1]["state"] == {}
    assert [message["content"] for message in server.bodies[-1]["messages"]] == ["never mind"]
    error = (await worker.turn(messages=[{"role": "tool", "tool_call_id": "call_1_0", "content": "x"}]))[-1]
    assert (error["kind"], "call_1_0" in error["message"]) == ("ConversationError", True)


async def test_tools_of_one_name_are_refused(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await rooms(worker, server)
    tool = {"type": "function", "function": {"name": "room"}}
    error = (await worker.turn(options={"tools": [tool]}))[-1]
    assert (error["kind"], "by these names: room" in error["message"]) == ("OptionError", True)
    assert server.bodies == []
