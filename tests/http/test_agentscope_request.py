"""From the bodies AgentScope's clients send to what an agent is asked."""

from typing import Any

import pytest

from supervisor.http.bodies import parse_object
from supervisor.http.dialects.agentscope_request import InterruptBody, ProcessBody, TaskBody, said_of, turn_request
from supervisor.http.faults import BodyRefusal, checked
from supervisor.turns.requests import TurnRequest

Message = dict[str, Any]


def asked(body: dict[str, Any], graph: str = "friday") -> TurnRequest:
    asked = checked(ProcessBody, body)
    request = turn_request(asked, said_of(asked), graph, "made-up")
    request.check()
    return request


def user(*content: Any, **more: Any) -> Message:
    return {
        "role": "user",
        "content": [{"type": "text", "text": c} if isinstance(c, str) else c for c in content],
    } | more


def assistant(text: str) -> Message:
    return {"type": "message", "role": "assistant", "content": [{"type": "text", "text": text}]}


def call(call_id: str | None = "c1", kind: str = "plugin_call", **data: Any) -> Message:
    data = {"call_id": call_id, "name": "lookup", "arguments": '{"q": 1}'} | data
    return {"type": kind, "role": "assistant", "content": [{"type": "data", "data": data}]}


def output(call_id: str | None = "c1", kind: str = "plugin_call_output", value: Any = "42") -> Message:
    data = {"call_id": call_id, "name": "lookup", "output": value}
    return {"type": kind, "role": "tool", "content": [{"type": "data", "data": data}]}


def said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def called(*ids: str) -> Message:
    function = {"name": "lookup", "arguments": '{"q": 1}'}
    calls = [{"id": name, "type": "function", "function": function} for name in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def answered(call_id: str, text: str = "42") -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


INPUTS: dict[str, tuple[Any, list[Message], list[Message]]] = {
    "one question": ([user("hi")], [], [said("user", "hi")]),
    "several texts": ([user("a", "b")], [], [said("user", "a\nb")]),
    "a plain content": ([{"role": "user", "content": "hi"}], [], [said("user", "hi")]),
    "a plain input": ("hi", [], [said("user", "hi")]),
    "no role": ([{"content": "hi"}], [], [said("user", "hi")]),
    "no content": ([{"role": "user", "content": None}], [], [said("user", "")]),
    "a conversation": (
        [user("a"), assistant("b"), user("c")],
        [said("user", "a"), said("assistant", "b")],
        [said("user", "c")],
    ),
    "the beginning of the answer": (
        [user("a"), assistant("b")],
        [],
        [said("user", "a"), said("assistant", "b")],
    ),
    "thoughts and errors": (
        [
            user("a"),
            {"type": "reasoning", "role": "assistant", "content": [{"type": "text", "text": "hm"}]},
            {"type": "error", "role": "assistant", "status": "failed", "code": "X", "message": "y", "content": []},
            {"type": "heartbeat"},
            assistant("b"),
            user("c"),
        ],
        [said("user", "a"), said("assistant", "b")],
        [said("user", "c")],
    ),
    "calls and results": (
        [user("a"), call("c1"), call("c2"), output("c2"), output("c1"), assistant("b"), user("c")],
        [said("user", "a"), called("c1", "c2"), answered("c2"), answered("c1"), said("assistant", "b")],
        [said("user", "c")],
    ),
    "other types of calls": (
        [
            call("c1", "mcp_call"),
            output("c1", "mcp_call_output"),
            call("c2", "function_call"),
            output("c2", "function_call_output", {"a": 1}),
            user("c"),
        ],
        [called("c1"), answered("c1"), called("c2")],
        [answered("c2", '{"a":1}'), said("user", "c")],
    ),
    "calls as OpenAI's clients have them": (
        [
            user("a"),
            {"type": "function_call", "call_id": "c1", "name": "lookup", "arguments": '{"q": 1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
            user("b"),
        ],
        [said("user", "a"), called("c1")],
        [answered("c1"), said("user", "b")],
    ),
    "results at the end": (
        [user("a"), call("c1"), output("c1")],
        [said("user", "a"), called("c1")],
        [answered("c1")],
    ),
    "nothing but results": ([output("c1"), output("c2")], [], [answered("c1"), answered("c2")]),
    "calls of nothing": ([call(None), output(None), {"type": "plugin_call"}, user("c")], [], [said("user", "c")]),
    "results that name no call": ([{"role": "tool", "content": "42"}, user("c")], [], [said("user", "c")]),
    "an unknown type": (
        [{**assistant("b"), "type": "surprise"}, user("c")],
        [said("assistant", "b")],
        [said("user", "c")],
    ),
    "whole messages that come back": (
        [
            user("a"),
            {
                "object": "message",
                "status": "completed",
                "id": "msg_1",
                "sequence_number": 6,
                "error": None,
                "type": "message",
                "role": "assistant",
                "content": [
                    {
                        "object": "content",
                        "status": "completed",
                        "type": "text",
                        "index": 0,
                        "delta": False,
                        "msg_id": "msg_1",
                        "text": "b",
                        "data": None,
                        "image_url": None,
                    }
                ],
                "code": None,
                "usage": None,
                "metadata": {"x": 1},
            },
            user("c"),
        ],
        [said("user", "a"), said("assistant", "b")],
        [said("user", "c")],
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str) -> None:
    given, history, messages = INPUTS[name]
    request = asked({"input": given})
    assert (request.history, request.messages) == (history, messages)
    assert (request.kind, request.source, request.instructions) == ("chat", "agentscope", None)


def test_system_messages_are_instructions() -> None:
    system = [{"role": "system", "content": text} for text in ("Be kind.", "", "Be brief.")]
    request = asked({"input": [system[0], user("a"), system[1], system[2], user("b")]})
    assert request.instructions == "Be kind.\n\nBe brief."
    assert request.history == [said("user", "a")]


PARTS: list[tuple[Message, Message]] = [
    (
        {"type": "image", "image_url": "http://x/y.png"},
        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
    ),
    (
        {"type": "image", "image_url": {"url": "data:image/png;base64,AA"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    ),
    (
        {"type": "audio", "data": "AAAA", "format": "wav"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ),
    ({"type": "audio", "data": "AAAA"}, {"type": "input_audio", "input_audio": {"data": "AAAA"}}),
    ({"type": "video", "video_url": "http://x/v"}, {"type": "video_url", "video_url": {"url": "http://x/v"}}),
    (
        {"type": "file", "filename": "a.pdf", "file_data": "AA"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "AA"}},
    ),
    ({"type": "file", "file_id": "f1"}, {"type": "file", "file": {"file_id": "f1"}}),
    ({"type": "file", "file_url": "http://x/f"}, {"type": "file", "file": {"file_url": "http://x/f"}}),
]


@pytest.mark.parametrize(("part", "shown"), PARTS)
def test_parts_that_are_no_text(part: Message, shown: Message) -> None:
    request = asked({"input": [user("see", part)]})
    assert request.messages == [{"role": "user", "content": [{"type": "text", "text": "see"}, shown]}]


def test_data_and_refusals_are_text() -> None:
    request = asked({"input": [user({"type": "data", "data": {"a": "ü"}}, {"type": "refusal", "refusal": "no"})]})
    assert request.messages == [said("user", '{"a":"ü"}\nno')]


NO_NAME = {"user": "made-up", "session": "made-up", "linger": False}
KEYS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, NO_NAME),
    ({"session_id": None, "user_id": None}, NO_NAME),
    ({"session_id": "", "user_id": ""}, NO_NAME),
    ({"session_id": "s"}, {"user": "s", "session": "s", "linger": True}),
    ({"session_id": "s", "user_id": "u"}, {"user": "u", "session": "s", "linger": True}),
    ({"user_id": "u"}, {"user": "u", "session": "made-up", "linger": False}),
    ({"session_id": "s", "user": {"x": 1}}, {"user": "s", "session": "s", "linger": True}),
]


@pytest.mark.parametrize(("given", "key"), KEYS)
def test_sessions(given: dict[str, Any], key: dict[str, Any]) -> None:
    request = asked({"input": "hi", **given})
    assert {name: getattr(request, name) for name in key} == key
    assert request.graph == "friday"


def test_parameters_for_a_model_are_passed_on() -> None:
    given = {
        "model": "gpt-4o",
        "temperature": 0,
        "top_p": 0.5,
        "max_tokens": 7,
        "stop": ["a"],
        "seed": 1,
        "n": 1,
        "frequency_penalty": -1,
        "presence_penalty": 1.5,
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    assert asked({"input": "hi", **given}).options == given
    assert asked({"input": "hi", **dict.fromkeys(given)}).options == {}
    assert "model" not in asked({"input": "hi", "model": "friday"}).options
    assert asked({"input": "hi", "stop": "x"}).options == {"stop": "x"}


def test_other_fields_are_no_error_and_reach_the_agent() -> None:
    request = asked({"input": "hi", "stream": False, "colour": {"a": [1]}, "object": "x", "none": None})
    assert request.context == {"colour": {"a": [1]}, "object": "x"}


FAULTS: list[tuple[dict[str, Any], tuple[int | str, ...], str]] = [
    ({}, ("input",), "missing"),
    ({"input": None}, ("input",), "missing"),
    ({"input": []}, ("input",), "too_short"),
    ({"input": ""}, ("input",), "too_short"),
    ({"input": 7}, ("input",), "list_type"),
    ({"input": {"role": "user"}}, ("input",), "list_type"),
    ({"input": ["hi"]}, ("input", 0), "object_type"),
    ({"input": [user("a"), user("b", role="boss")]}, ("input", 1, "role"), "literal_error"),
    ({"input": [{"role": "user", "content": 7}]}, ("input", 0, "content"), "list_type"),
    ({"input": [{"role": "user", "content": {"type": "text"}}]}, ("input", 0, "content"), "list_type"),
    ({"input": [user(7)]}, ("input", 0, "content", 0), "object_type"),
    ({"input": [user({"text": "x"})]}, ("input", 0, "content", 0, "type"), "missing"),
    ({"input": [user({"type": "smell"})]}, ("input", 0, "content", 0, "type"), "literal_error"),
    ({"input": [user("a", {"type": "text"})]}, ("input", 0, "content", 1, "text"), "missing"),
    ({"input": [user({"type": "text", "text": None})]}, ("input", 0, "content", 0, "text"), "missing"),
    ({"input": [user({"type": "text", "text": 7})]}, ("input", 0, "content", 0, "text"), "string_type"),
    ({"input": [user({"type": "image"})]}, ("input", 0, "content", 0, "image_url"), "missing"),
    ({"input": [user({"type": "image", "image_url": 7})]}, ("input", 0, "content", 0, "image_url"), "string_type"),
    ({"input": [user({"type": "audio", "data": {}})]}, ("input", 0, "content", 0, "data"), "string_type"),
    ({"input": [user({"type": "file", "filename": "x"})]}, ("input", 0, "content", 0, "file_url"), "missing"),
    ({"input": [{"role": "user", "type": 7}]}, ("input", 0, "type"), "string_type"),
    ({"input": [assistant("a")]}, ("input",), "value_error"),
    ({"input": [{"role": "system", "content": "a"}]}, ("input",), "value_error"),
    ({"input": "a", "session_id": 7}, ("session_id",), "string_type"),
    ({"input": "a", "user_id": ["x"]}, ("user_id",), "string_type"),
    ({"input": "a", "id": True}, ("id",), "string_type"),
    ({"input": "a", "session_id": "x" * 1025}, ("session_id",), "value_error"),
    ({"input": "a", "user_id": "\x01" * 171}, ("user_id",), "value_error"),
    ({"input": "a", "session_id": "a\0b"}, ("session_id",), "value_error"),
    ({"input": "a", "session_id": "channel:x"}, ("session_id",), "value_error"),
    ({"input": "a", "temperature": "hot"}, ("temperature",), "float_type"),
    ({"input": "a", "max_tokens": 1.5}, ("max_tokens",), "int_type"),
    ({"input": "a", "stop": [1]}, ("stop",), "value_error"),
    ({"input": "a", "stop": ["x"] * 17}, ("stop",), "value_error"),
    ({"input": "a", "stop": 1}, ("stop",), "value_error"),
    ({"input": "a", "tools": [{}] * 129}, ("tools",), "too_long"),
    ({"input": "a", "tools": [0] * 100_000}, ("tools",), "too_long"),
    ({"input": [7] * 4096}, ("input", 0), "object_type"),
    ({"input": [user(*[{}] * 16_384)]}, ("input", 0, "content", 0, "type"), "missing"),
    ({"input": "a", **{str(n): 0 for n in range(1024)}}, (), "too_long"),
    ({"input": "a", "tools": {}}, ("tools",), "list_type"),
    ({"input": "a", "model": 7}, ("model",), "string_type"),
]


@pytest.mark.parametrize(("body", "place", "kind"), FAULTS)
def test_what_is_refused(body: dict[str, Any], place: tuple[int | str, ...], kind: str) -> None:
    with pytest.raises(BodyRefusal) as raised:
        asked(body)
    [fault] = raised.value.faults
    assert (fault.place, fault.kind) == (place, kind)
    assert (fault.name or "the body") in fault.text


@pytest.mark.parametrize("seconds", [0.5, 1, 86400, None])
def test_the_time_of_a_task(seconds: float | None) -> None:
    body = checked(TaskBody, {"input": "a", "timeout": seconds})
    assert body.timeout == seconds
    assert turn_request(body, said_of(body), "friday", "s").context == {}


@pytest.mark.parametrize("seconds", [0, -1, "10", True, [], 86401, 1e300])
def test_what_is_no_time_of_a_task(seconds: Any) -> None:
    with pytest.raises(BodyRefusal) as raised:
        checked(TaskBody, {"input": "a", "timeout": seconds})
    assert raised.value.faults[0].place == ("timeout",)
    assert asked({"input": "a", "timeout": seconds}).messages, "elsewhere it means nothing"


@pytest.mark.parametrize(
    ("body", "user"),
    [({"session_id": "s"}, "s"), ({"session_id": "s", "user_id": "u", "input": []}, "u")],
)
def test_interrupts(body: dict[str, Any], user: str) -> None:
    wanted = checked(InterruptBody, body)
    assert (wanted.session_id, wanted.user) == ("s", user)


@pytest.mark.parametrize("body", [{}, {"session_id": ""}, {"session_id": 7}, {"session_id": "s", "user_id": 7}])
def test_interrupts_that_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BodyRefusal):
        checked(InterruptBody, body)


def test_a_large_body_of_many_parts() -> None:
    data = b'{"input":[{"role":"user","content":[' + b",".join([b'{"type":"text","text":"x"}'] * 5000) + b"]}]}"
    assert asked(parse_object(data)).messages == [said("user", "\n".join("x" * 5000))]
