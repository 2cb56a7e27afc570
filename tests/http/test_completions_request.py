"""Bodies of chat completions: what becomes of them, and what is refused with which parameter and code."""

from typing import Any

import pytest

from supervisor.http.dialects.completions_request import check_body
from supervisor.http.dialects.openai_errors import error
from supervisor.http.faults import BodyRefusal
from supervisor.turns.requests import TurnRequest

ASK = {"role": "user", "content": "Who are you?"}
SAID = {"role": "assistant", "content": "Friday."}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
OUTPUT = {"role": "tool", "tool_call_id": "c1", "content": "2"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"default": None}}}}}


def turn(*messages: Any, graph: str = "friday", **more: Any) -> TurnRequest:
    body = check_body({"model": "any", "messages": list(messages), **more})
    return body.turn_request(body.said(), graph)


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("messages", "history", "own"),
    [
        ([ASK], [], [ASK]),
        ([ASK, SAID, ASK], [ASK, SAID], [ASK]),
        ([ASK, ASK], [ASK], [ASK]),
        ([ASK, SAID], [], [ASK, SAID]),  # the beginning of the answer is given
        ([SAID], [], [SAID]),
        ([ASK, CALLED, OUTPUT], [ASK, CALLED], [OUTPUT]),
        ([ASK, CALLED, OUTPUT, OUTPUT], [ASK, CALLED], [OUTPUT, OUTPUT]),
        ([ASK, CALLED, OUTPUT, ASK], [ASK, CALLED], [OUTPUT, ASK]),
        ([ASK, CALLED, OUTPUT, SAID], [], [ASK, CALLED, OUTPUT, SAID]),
        ([OUTPUT], [], [OUTPUT]),
    ],
)
def test_which_messages_are_the_turns_own(messages: Any, history: Any, own: Any) -> None:
    wanted = turn(*messages)
    assert (wanted.history, wanted.messages) == (history, own)


@pytest.mark.parametrize(
    ("messages", "instructions", "own"),
    [
        ([{"role": "system", "content": "Be brief."}, ASK], "Be brief.", [ASK]),
        (
            [{"role": "system", "content": "A"}, ASK, {"role": "developer", "content": [text("B"), text("C")]}],
            "A\n\nB\nC",
            [ASK],
        ),
        ([{"role": "system", "content": ""}, ASK], None, [ASK]),
        ([{"role": "system", "content": "Say hi."}], None, [{"role": "system", "content": "Say hi."}]),
    ],
)
def test_instructions(messages: Any, instructions: Any, own: Any) -> None:
    wanted = turn(*messages)
    assert (wanted.instructions, wanted.messages) == (instructions, own)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a", "a"),
        ("", ""),
        ([text("a")], "a"),
        ([text("a"), text("b")], "a\nb"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
        ([], ""),
        (
            [text("a"), {"type": "image_url", "image_url": {"url": "u", "detail": "low"}}],
            [text("a"), {"type": "image_url", "image_url": {"url": "u", "detail": "low"}}],
        ),
        ([{"type": "image_url", "image_url": "u"}], [{"type": "image_url", "image_url": {"url": "u"}}]),
        (
            [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}, "text": None}],
            [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}],
        ),
        (
            [{"type": "file", "file": {"filename": "a.txt", "file_data": "data:,x", "file_id": None}}],
            [{"type": "file", "file": {"filename": "a.txt", "file_data": "data:,x"}}],
        ),
        ([{"type": "video_url", "video_url": {"url": "v"}}], [{"type": "video_url", "video_url": {"url": "v"}}]),
    ],
)
def test_contents(content: Any, expected: Any) -> None:
    [message] = turn({"role": "user", "content": content, "name": "ada", "odd": 1}).messages
    assert message == {"role": "user", "content": expected, "name": "ada"}


def test_options_reach_the_agent_as_they_are() -> None:
    options = {
        "temperature": 0,
        "top_p": 0.5,
        "frequency_penalty": -2,
        "presence_penalty": 2.0,
        "max_tokens": 5,
        "max_completion_tokens": 6,
        "stop": ["x"],
        "seed": -1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"default": None}}},
        "reasoning_effort": "low",
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False,
    }
    assert turn(ASK, **options).options == {**options, "model": "any"}
    assert turn(ASK, stop="x", tool_choice="required").options["stop"] == ["x"]


@pytest.mark.parametrize(
    ("more", "options"),
    [
        ({}, {"model": "any"}),
        ({"model": "friday"}, {}),  # it was the graph's name
        ({"model": ""}, {}),
        ({"model": None, "temperature": None, "tools": None, "stop": None, "stream_options": None}, {}),
    ],
)
def test_the_model_is_an_option_when_it_names_no_graph(more: Any, options: Any) -> None:
    assert turn(ASK, **more).options == options


@pytest.mark.parametrize(
    ("more", "key", "store"),
    [
        ({}, ("", None), False),
        ({"store": True}, ("", None), True),
        ({"user": "u"}, ("u", None), False),
        ({"session_id": "s"}, ("s", "s"), True),
        ({"session_id": "s", "user": "u"}, ("u", "s"), True),
        ({"session_id": "s", "user": "u", "user_id": "v"}, ("v", "s"), True),
        ({"session_id": "s", "user_id": "", "user": ""}, ("s", "s"), True),
        ({"session_id": "s", "user_id": "", "user": "u"}, ("u", "s"), True),
        ({"session_id": "s", "store": False}, ("s", "s"), False),
        ({"session_id": None, "user_id": None, "store": None}, ("", None), False),
    ],
)
def test_sessions(more: Any, key: Any, store: bool) -> None:
    wanted = turn(ASK, **more)
    assert ((wanted.user, wanted.session), wanted.store) == (key, store)
    assert (wanted.graph, wanted.kind, wanted.source, wanted.linger) == ("friday", "chat", "openai", True)


def test_what_does_not_matter_is_ignored() -> None:
    more = {"metadata": {"a": 1}, "service_tier": "flex", "n": 1, "logprobs": False, "modalities": ["text"], "odd": []}
    assert turn(ASK, **more) == turn(ASK)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "messages", "missing_required_parameter"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [1]}, "messages[0]", "invalid_type"),
        ({"messages": [ASK, {}]}, "messages[1].role", "missing_required_parameter"),
        ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "function", "content": ""}]}, "messages[0].role", "invalid_value"),
        ({"messages": [ASK, ASK, {"role": "user", "content": 5}]}, "messages[2].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{}]}]},
            "messages[0].content[0].type",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "odd"}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].image_url.url",
            "missing_required_parameter",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0]", "invalid_value"),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages[0]", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "2"}]}, "messages[0]", "invalid_value"),
        (
            {"messages": [ASK, {**CALLED, "tool_calls": [{"id": "c", "type": "custom"}]}]},
            "messages[1].tool_calls[0].type",
            "invalid_value",
        ),
        (
            {"messages": [ASK, {**CALLED, "tool_calls": [{"id": "c", "function": {"arguments": "{}"}}]}]},
            "messages[1].tool_calls[0].function.name",
            "missing_required_parameter",
        ),
        ({"messages": [ASK], "model": 5}, "model", "invalid_type"),
        ({"messages": [ASK], "model": "m" * 257}, "model", "invalid_value"),
        ({"messages": [ASK], "stream": "yes"}, "stream", "invalid_type"),
        ({"messages": [ASK], "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"messages": [ASK], "session_id": 5}, "session_id", "invalid_type"),
        ({"messages": [ASK], "session_id": ""}, "session_id", "invalid_value"),
        ({"messages": [ASK], "session_id": "channel:1"}, "session_id", "invalid_value"),
        ({"messages": [ASK], "session_id": "s\0"}, "session_id", "invalid_value"),
        ({"messages": [ASK], "session_id": "s" * 1025}, "session_id", "invalid_value"),
        ({"messages": [ASK], "user_id": ["u"]}, "user_id", "invalid_type"),
        ({"messages": [ASK], "user_id": "u\0"}, "user_id", "invalid_value"),
        ({"messages": [ASK], "user": "u" * 1025}, "user", "invalid_value"),
        ({"messages": [ASK], "temperature": "hot"}, "temperature", "invalid_type"),
        ({"messages": [ASK], "temperature": True}, "temperature", "invalid_type"),
        ({"messages": [ASK], "temperature": 2.5}, "temperature", "invalid_value"),
        ({"messages": [ASK], "top_p": 0}, "top_p", "invalid_value"),
        ({"messages": [ASK], "max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"messages": [ASK], "stop": [1]}, "stop[0]", "invalid_type"),
        ({"messages": [ASK], "stop": ["x"] * 17}, "stop", "invalid_value"),
        ({"messages": [ASK], "tools": {}}, "tools", "invalid_type"),
        ({"messages": [ASK], "tools": [{"type": "custom"}]}, "tools[0].type", "invalid_value"),
        ({"messages": [ASK], "tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        (
            {"messages": [ASK], "tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            "invalid_value",
        ),
        ({"messages": [ASK], "tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        ({"messages": [ASK], "tools": [TOOL] * 129}, "tools", "invalid_value"),
        ({"messages": [ASK], "tool_choice": "some"}, "tool_choice", "invalid_type"),
        ({"messages": [ASK], "tool_choice": {}}, "tool_choice", "invalid_type"),
        ({"messages": [ASK], "response_format": "json"}, "response_format", "invalid_type"),
        ({"messages": [ASK], "n": 2}, "n", "unsupported_parameter"),
        ({"messages": [ASK], "n": "many"}, "n", "unsupported_parameter"),
        ({"messages": [ASK], "logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"messages": [ASK], "logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"messages": [ASK], "modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"messages": [ASK], "audio": {"voice": "v"}}, "audio", "unsupported_parameter"),
        ({"messages": [ASK], "web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"messages": [ASK], "functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
    ],
)
def test_what_is_refused(body: Any, param: str, code: str) -> None:
    with pytest.raises(BodyRefusal) as caught:
        check_body(body)
    status, told = error(caught.value)
    assert (status, told["error"]["param"], told["error"]["code"]) == (400, param, code), told
    assert told["error"]["type"] == "invalid_request_error"
    assert param.rpartition("[")[0] in told["error"]["message"], told
