"""Bodies of OpenAI's Responses: what turns they become, what is listed of them, and what is wrong with others."""

import re
from typing import Any

import pytest
from openai._models import validate_type
from openai.types.responses import ResponseItem

from supervisor.http.dialects.openai_errors import ParameterRefusal, error
from supervisor.http.dialects.responses_input import IGNORED, SKIPPED
from supervisor.http.dialects.responses_request import (
    Origin,
    ResponsesBody,
    check_body,
    input_items,
    turn_request,
)
from supervisor.http.faults import BodyRefusal, checked
from supervisor.turns.requests import TurnRequest

Json = dict[str, Any]

ORIGIN = Origin("friday", "ada", "s1")
IMAGE = {"type": "input_image", "image_url": "https://host/a.png"}
FUNCTION = {"type": "function", "name": "lookup", "description": "d", "parameters": {"type": "object"}, "strict": True}


def request(origin: Origin | None = None, named: str | None = None, **body: Any) -> TurnRequest:
    asked, said, items = check_body({"input": "hi", **body})
    assert items == (input_items(asked) if asked.store else [])
    return turn_request(asked, said, "friday", named=named, origin=origin)


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


def assistant(content: Any) -> Json:
    return {"role": "assistant", "content": content}


def called(call_id: str = "c1", arguments: str = "{}") -> Json:
    return {"type": "function_call", "call_id": call_id, "name": "lookup", "arguments": arguments}


def output(call_id: str = "c1", said: Any = "found") -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": said}


def chat_call(call_id: str = "c1", arguments: str = "{}") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": "lookup", "arguments": arguments}}


def tool(call_id: str = "c1", said: Any = "found") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": said}


# ---------------------------------------------------------------------- input


@pytest.mark.parametrize(
    ("given", "history", "messages"),
    [
        ("Who are you?", [], [user("Who are you?")]),
        ([user("a")], [], [user("a")]),
        ([{"type": "message", "id": "msg_1", "status": "completed", **user("a")}], [], [user("a")]),
        ([user("a"), assistant("b"), user("c")], [user("a"), assistant("b")], [user("c")]),
        ([user("a"), user("b")], [user("a")], [user("b")]),
        ([user("a"), assistant("b")], [], [user("a"), assistant("b")]),
        (
            [user([{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}])],
            [],
            [user("a\nb")],
        ),
        (
            [assistant([{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}]), user("b")],
            [assistant("a")],
            [user("b")],
        ),
        ([assistant([{"type": "refusal", "refusal": "no"}]), user("b")], [assistant("no")], [user("b")]),
        (
            [user([{"type": "input_text", "text": "a"}, IMAGE])],
            [],
            [user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://host/a.png"}}])],
        ),
        (
            [user([{**IMAGE, "detail": "low"}])],
            [],
            [user([{"type": "image_url", "image_url": {"url": "https://host/a.png", "detail": "low"}}])],
        ),
        ([user([{"type": "input_image", "file_id": "f"}])], [], [user([{"type": "file", "file": {"file_id": "f"}}])]),
        (
            [user([{"type": "input_file", "filename": "a.pdf", "file_data": "data:,x"}])],
            [],
            [user([{"type": "file", "file": {"filename": "a.pdf", "file_data": "data:,x"}}])],
        ),
        (
            [user([{"type": "input_file", "file_url": "https://host/a"}])],
            [],
            [user([{"type": "file", "file": {"file_url": "https://host/a"}}])],
        ),
        (
            [user([{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}])],
            [],
            [user([{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}])],
        ),
        (
            [user("a"), called(), called("c2", '{"q":1}'), output(), output("c2", "x")],
            [user("a"), {**assistant(None), "tool_calls": [chat_call(), chat_call("c2", '{"q":1}')]}],
            [tool(), tool("c2", "x")],
        ),
        (
            [user("a"), assistant("Wait."), called(), output(said=[{"type": "input_text", "text": "x"}])],
            [user("a"), {**assistant("Wait."), "tool_calls": [chat_call()]}],
            [tool(said="x")],
        ),
        (
            [user("a"), called(), output(), user("and?")],
            [user("a"), {**assistant(None), "tool_calls": [chat_call()]}],
            [tool(), user("and?")],
        ),
        ([{"type": "reasoning", "id": "rs_1", "summary": [], "content": None}, user("a")], [], [user("a")]),
        ([{"type": "item_reference", "id": "msg_1"}, user("a")], [], [user("a")]),
        ([output(), {"type": "reasoning", "summary": []}], [], [tool()]),
        ([user(None) | {"content": []}], [], [user("")]),
    ],
)
def test_inputs(given: Any, history: list[Json], messages: list[Json]) -> None:
    asked = request(input=given)
    assert (asked.history, asked.messages) == (history, messages)
    asked.check()


@pytest.mark.parametrize("origin", [ORIGIN, None])
def test_what_continues_a_conversation_is_all_new(origin: Origin | None) -> None:
    more = {"previous_response_id": "r"} if origin else {"conversation": "c"}
    for given, messages in [
        ([user("a"), user("b")], [user("a"), user("b")]),
        ([output(), user("b")], [tool(), user("b")]),
        ([called(), output()], [{**assistant(None), "tool_calls": [chat_call()]}, tool()]),
    ]:
        asked = request(origin, input=given, **more)
        assert (asked.history, asked.messages) == ([], messages)


@pytest.mark.parametrize("kind", sorted(IGNORED - {SKIPPED}))
def test_items_that_are_ignored_are_not_even_looked_at(kind: str) -> None:
    odd = {"type": kind, "role": 5, "content": 5, "output": {}, "arguments": [], "name": {}, "status": 1}
    asked = request(input=[odd, user("a")])
    assert asked.messages == [user("a")]
    assert input_items(checked(ResponsesBody, {"input": [odd, user("a")]}))[0]["id"] == "msg_2"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, None),
        ({"instructions": "Be kind."}, "Be kind."),
        ({"instructions": ""}, None),
        (
            {
                "instructions": "One.",
                "input": [{"role": "system", "content": "Two."}, user("a"), {"role": "developer", "content": "Three."}],
            },
            "One.\n\nTwo.\n\nThree.",
        ),
    ],
)
def test_instructions(body: Json, told: str | None) -> None:
    asked = request(**body)
    assert asked.instructions == told
    assert [message["role"] for message in asked.messages] == ["user"]


# ---------------------------------------------------------------------- whose conversation it is


@pytest.mark.parametrize(
    ("body", "origin", "key", "linger"),
    [
        ({"session_id": "s"}, None, ("friday", "s", "s"), True),
        ({"conversation": "c"}, None, ("friday", "c", "c"), True),
        ({"conversation": {"id": "c"}}, None, ("friday", "c", "c"), True),
        ({"conversation": "c", "session_id": "s"}, None, ("friday", "s", "s"), True),
        ({"session_id": "s", "user": "u"}, None, ("friday", "u", "s"), True),
        ({"session_id": "s", "user": "u", "user_id": "v"}, None, ("friday", "v", "s"), True),
        ({"session_id": "s", "user": "u", "user_id": ""}, None, ("friday", "u", "s"), True),
        ({"session_id": "s", "user": "", "user_id": ""}, None, ("friday", "s", "s"), True),
        ({"previous_response_id": "r"}, ORIGIN, ("friday", "ada", "s1"), True),
        ({"previous_response_id": "r", "session_id": "s", "user_id": "u"}, ORIGIN, ("friday", "ada", "s1"), True),
    ],
)
def test_keys(body: Json, origin: Origin | None, key: tuple[str, str, str], linger: bool) -> None:
    asked = request(origin, **body)
    assert (asked.graph, asked.user, asked.session, asked.linger) == (*key, linger)
    assert (asked.source, asked.kind) == ("openai", "chat")


def test_a_call_without_a_session_has_one_of_its_own() -> None:
    first, second = request(), request()
    assert first.session != second.session
    assert (first.user, first.linger, first.store) == (first.session, False, True)
    assert request(user="ada").user == "ada"
    assert not request(store=False).store


def test_a_conversation_stays_with_its_graph() -> None:
    assert request(Origin("other", "u", "s"), named="other").graph == "other"
    assert request(Origin("other", "u", "s")).graph == "other"
    with pytest.raises(ParameterRefusal, match=r"'friday'.*'other'") as refused:
        request(Origin("other", "u", "s"), named="friday")
    assert error(refused.value)[1]["error"]["param"] == "model"


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({}, {}),
        (
            {"temperature": 1, "top_p": 0.5, "max_output_tokens": 9, "parallel_tool_calls": False},
            {"temperature": 1, "top_p": 0.5, "max_output_tokens": 9, "parallel_tool_calls": False},
        ),
        ({"model": "gpt-x"}, {"model": "gpt-x"}),
        ({"model": ""}, {}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": None}}, {}),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"a": 1}, "strict": True},
                }
            },
        ),
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search_preview"}}, {}),
        (
            {"tools": [FUNCTION, {"type": "web_search"}], "tool_choice": "required"},
            {
                "tools": [{"type": "function", "function": {k: v for k, v in FUNCTION.items() if k != "type"}}],
                "tool_choice": "required",
            },
        ),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": None, "description": None}]},
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
        ),
        (
            {"tool_choice": {"type": "function", "name": "f"}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            {
                "tools": [{"type": "function", "name": "f"}, {"type": "function", "name": "g"}],
                "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"name": "g"}]},
            },
            {"tools": [{"type": "function", "function": {"name": "g"}}], "tool_choice": "required"},
        ),
        ({"stream_options": {"include_obfuscation": False}, "include": ["x"], "prompt": {"id": "p"}, "colour": 1}, {}),
    ],
)
def test_options(body: Json, options: Json) -> None:
    assert request(**body).options == options


def test_a_model_that_is_a_graph_is_no_option() -> None:
    assert request(named="friday", model="friday").options == {}


def test_null_is_as_good_as_nothing() -> None:
    names = [name for name in ResponsesBody.model_fields if name != "input"]
    body = checked(ResponsesBody, {"input": "hi", **dict.fromkeys(names)})
    assert body == checked(ResponsesBody, {"input": "hi"})
    deep = [
        {"type": None, "role": "user", "id": None, "content": [{"type": "input_text", "text": "a", "detail": None}]}
    ]
    assert request(input=deep).messages == [user("a")]


# ---------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("body", "param", "code", "words"),
    [
        ({"input": None}, "input", "missing_required_parameter", "input is missing"),
        ({"input": ""}, "input", "invalid_value", "empty"),
        ({"input": []}, "input", "invalid_value", "empty"),
        ({"input": 7}, "input", "invalid_type", "a string or an array of items"),
        ({"input": {"role": "user"}}, "input", "invalid_type", "a string or an array of items"),
        ({"input": [user("a"), "b"]}, "input[1]", "invalid_type", "an object"),
        ({"input": [{}]}, "input[0].type", "missing_required_parameter", "is missing"),
        ({"input": [{"type": "mesage"}]}, "input[0].type", "invalid_value", "message, function_call,"),
        ({"input": [{"type": 5}]}, "input[0].type", "invalid_type", "string"),
        ({"input": [user("a"), user("b"), user(7)]}, "input[2].content", "invalid_type", "a string or an array"),
        ({"input": [user({"type": "input_text"})]}, "input[0].content", "invalid_type", "a string or an array"),
        ({"input": [user(None)]}, "input[0].content", "missing_required_parameter", "is missing"),
        ({"input": [{"type": "message", "content": "a"}]}, "input[0].role", "missing_required_parameter", "is missing"),
        ({"input": [{"role": "boss", "content": "a"}]}, "input[0].role", "invalid_value", "'boss'"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role", "invalid_value", "'developer'"),
        ({"input": [user(["a"])]}, "input[0].content[0]", "invalid_type", "an object"),
        ({"input": [user([{"type": "image"}])]}, "input[0].content[0].type", "invalid_value", "input_image"),
        ({"input": [user([{"text": "a"}])]}, "input[0].content[0].type", "missing_required_parameter", "missing"),
        ({"input": [user([{"type": "input_text", "text": 7}])]}, "input[0].content[0].text", "invalid_type", "string"),
        ({"input": [user([{"type": "input_text"}])]}, "input[0].content[0].text", "missing_required_parameter", "text"),
        ({"input": [user([{"type": "input_image"}])]}, "input[0].content[0]", "invalid_value", "image_url or file_id"),
        (
            {"input": [user([{"type": "input_audio"}])]},
            "input[0].content[0].input_audio",
            "missing_required_parameter",
            "missing",
        ),
        ({"input": [{**called(), "arguments": {}}]}, "input[0].arguments", "invalid_type", "string"),
        ({"input": [{**called(), "name": None}]}, "input[0].name", "missing_required_parameter", "missing"),
        ({"input": [output(said={"a": 1})]}, "input[0].output", "invalid_type", "a string or an array"),
        ({"input": [{"role": "system", "content": "a"}]}, "input", "invalid_value", "asks nothing"),
        ({"input": [assistant("a")]}, "input", "invalid_value", "asks nothing"),
        ({"input": [{"type": "reasoning"}]}, "input", "invalid_value", "asks nothing"),
        ({"stream": "true"}, "stream", "invalid_type", "'true'"),
        ({"stream": 1}, "stream", "invalid_type", "1"),
        ({"model": 5}, "model", "invalid_type", "5"),
        ({"instructions": ["a"]}, "instructions", "invalid_type", "string"),
        ({"conversation": 5}, "conversation", "invalid_type", "an object with an id"),
        ({"conversation": {"id": 5}}, "conversation", "invalid_type", "an object with an id"),
        ({"conversation": ""}, "conversation", "invalid_value", "at least 1"),
        ({"session_id": ""}, "session_id", "invalid_value", "at least 1"),
        ({"session_id": 5}, "session_id", "invalid_type", "string"),
        ({"session_id": "a\0b"}, "session_id", "invalid_value", "NUL"),
        ({"session_id": "x" * 1025}, "session_id", "invalid_value", "1025 bytes"),
        ({"session_id": "\x01" * 171}, "session_id", "invalid_value", "1026 bytes of JSON"),
        ({"session_id": "channel:1"}, "session_id", "invalid_value", "'channel:'"),
        ({"conversation": "channel:1"}, "conversation", "invalid_value", "'channel:'"),
        ({"conversation": {"id": "a\0b"}}, "conversation", "invalid_value", "NUL"),
        ({"user": "u\0"}, "user", "invalid_value", "NUL"),
        ({"user_id": "u" * 1025}, "user_id", "invalid_value", "1025 bytes"),
        ({"previous_response_id": "r\0"}, "previous_response_id", "invalid_value", "NUL"),
        ({"model": "m" * 257}, "model", "invalid_value", "256"),
        ({"prompt_cache_key": "k" * 257}, "prompt_cache_key", "invalid_value", "256"),
        ({"user_id": {}}, "user_id", "invalid_type", "string"),
        (
            {"conversation": "c", "previous_response_id": "r"},
            "conversation",
            "mutually_exclusive_parameters",
            "previous_response_id",
        ),
        ({"background": True, "store": False}, "background", "invalid_value", "store"),
        ({"store": "no"}, "store", "invalid_type", "'no'"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type", "string"),
        ({"metadata": []}, "metadata", "invalid_type", "dictionary"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value", "17 pairs; at most 16"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "invalid_value", "512"),
        ({"metadata": {"k" * 65: ""}}, f"metadata.{'k' * 64}.[key]", "invalid_value", "64"),
        (
            {"tool_choice": {"type": "allowed_tools", "tools": [{}] * 129}},
            "tool_choice.tools",
            "invalid_value",
            "128",
        ),
        ({"temperature": "hot"}, "temperature", "invalid_type", "'hot'"),
        ({"temperature": True}, "temperature", "invalid_type", "number"),
        ({"temperature": 3}, "temperature", "invalid_value", "2"),
        ({"top_p": -1}, "top_p", "invalid_value", "0"),
        ({"max_output_tokens": 1.5}, "max_output_tokens", "invalid_type", "1.5"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value", "1"),
        ({"truncation": "much"}, "truncation", "invalid_value", "'auto'"),
        ({"reasoning": "low"}, "reasoning", "invalid_type", "object"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value", "json_schema"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format", "invalid_value", "name and schema"),
        ({"tools": {}}, "tools", "invalid_type", "list"),
        ({"tools": [7]}, "tools[0]", "invalid_type", "an object"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter", "missing"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "invalid_value", "pattern"),
        ({"tools": [FUNCTION, FUNCTION]}, "tools", "invalid_value", "lookup"),
        ({"tools": [FUNCTION] * 129}, "tools", "invalid_value", "128"),
        ({"tool_choice": "any"}, "tool_choice", "invalid_value", "auto, none, required"),
        ({"tool_choice": 5}, "tool_choice", "invalid_type", "object"),
    ],
)
def test_bodies_that_are_refused(body: Json, param: str, code: str, words: str) -> None:
    with pytest.raises(BodyRefusal) as refused:
        request(**body)
    status, told = error(refused.value)
    fault = told["error"]
    assert (status, fault["type"], fault["param"], fault["code"]) == (400, "invalid_request_error", param, code), fault
    assert words in fault["message"]
    assert not re.search(r"pydantic|Traceback", fault["message"])


def test_no_value_of_a_client_makes_a_long_error() -> None:
    with pytest.raises(BodyRefusal) as refused:
        request(input=[{"role": "x" * 100_000, "content": "a"} for _ in range(1000)])
    assert len(error(refused.value)[1]["error"]["message"]) <= 1000


# ---------------------------------------------------------------------- what is listed


def test_items_as_they_are_listed() -> None:
    given = [
        {"role": "developer", "content": "Be kind."},
        {**user([{"type": "input_text", "text": "a"}, IMAGE, {"type": "input_file", "file_id": "f"}]), "id": "mine"},
        {"type": "reasoning", "summary": []},
        assistant("b"),
        called(),
        output(),
        output("c2", [{"type": "input_text", "text": "x"}, IMAGE]),
    ]
    items = input_items(checked(ResponsesBody, {"input": given}))
    for item in items:
        validate_type(type_=ResponseItem, value=item)
    done = {"status": "completed"}
    image = {**IMAGE, "detail": "auto"}
    assert items == [
        {
            "id": "msg_1",
            "type": "message",
            "role": "developer",
            **done,
            "content": [{"type": "input_text", "text": "Be kind."}],
        },
        {
            "id": "mine",
            "type": "message",
            "role": "user",
            **done,
            "content": [{"type": "input_text", "text": "a"}, image, {"type": "input_file", "file_id": "f"}],
        },
        {
            "id": "msg_4",
            "type": "message",
            "role": "assistant",
            **done,
            "content": [{"type": "output_text", "text": "b", "annotations": []}],
        },
        {"id": "fc_5", **called(), **done},
        {"id": "fco_6", **output(), **done},
        {"id": "fco_7", **output("c2", [{"type": "input_text", "text": "x"}, image]), **done},
    ]


def test_a_string_is_listed_as_a_message() -> None:
    assert input_items(checked(ResponsesBody, {"input": "Who?"})) == [
        {
            "id": "msg_1",
            "type": "message",
            "role": "user",
            "status": "completed",
            "content": [{"type": "input_text", "text": "Who?"}],
        }
    ]
