"""One turn as a stream of OpenAI's Responses: every order of events, read by the SDK's own models and accumulator."""

from typing import Any

import orjson
import pytest
from openai import omit
from openai._models import validate_type
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent

from supervisor.causes import EXPLANATIONS, Cause
from supervisor.http.dialects.answer import MOST_PARTS
from supervisor.http.dialects.responses import Responses, as_lost, doubled
from supervisor.http.dialects.responses_request import check_body, turn_request
from supervisor.turns.transcript import MAX_CHARACTERS
from supervisor.turns.turn import Item

Event = dict[str, Any]

ID = "resp_0123abcd"
CREATED = 1_790_000_000.7


def text(said: str) -> Event:
    return {"type": "text", "text": said}


def thought(said: str) -> Event:
    return {"type": "thought", "text": said}


def call(name: str = "lookup", call_id: str = "c1", **arguments: Any) -> Event:
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": arguments}


def result(call_id: str = "c1") -> Event:
    return {"type": "tool_result", "id": call_id, "name": "lookup", "output": 3, "failed": False, "ms": 1.0}


def usage(**details: int) -> Event:
    return {"type": "usage", "input_tokens": 5, "output_tokens": 7, "total_tokens": 12, **details}


def final(value: Any = None, **more: Any) -> Event:
    return {"type": "final", "cause": "completed", "ms": 1500.0, **({} if value is None else {"value": value}), **more}


def error(cause: str = "agent_error", message: str = "no such room") -> Event:
    return {"type": "error", "cause": cause, "kind": "", "message": message, "next_step": "", "ms": 1.0}


def translator(body: Event | None = None, graph: str = "friday") -> Responses:
    asked, said, _ = check_body({"input": "Who are you?", "model": "any_name", **(body or {})})
    request = turn_request(asked, said, graph, named=None, origin=None)
    return Responses.to(asked, request, id=ID, created_at=CREATED)


def items(events: list[Event]) -> list[Item]:
    return [Item({"turn": "t", **event}, b"") for event in events]


def parsed(frames: list[bytes]) -> list[Event]:
    """The data of the frames, each of which is one whole server-sent event of one name."""
    found = []
    for frame in frames:
        head, data = frame.removesuffix(b"\n\n").split(b"\n")
        event = orjson.loads(data.removeprefix(b"data: "))
        assert head.decode() == f"event: {event['type']}"
        assert frame.endswith(b"\n\n")
        found.append(event)
    return found


def stream(*events: Event, one_by_one: bool = True, **body: Any) -> tuple[list[Event], Responses]:
    """All events of a turn's stream, checked by the SDK's models and its accumulator."""
    told = translator(body)
    frames = told.opening(None)  # type: ignore[arg-type]
    batches = [[event] for event in events] if one_by_one else [list(events)]
    for batch in batches:
        frames += told.events(items(batch))
    found = parsed(frames)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    accumulator = ResponseStreamState(text_format=omit, input_tools=omit)
    for event in found:
        assert not event.get("error")
        accumulator.handle_event(validate_type(type_=ResponseStreamEvent, value=event))
    last = found[-1]
    assert last["type"].removeprefix("response.") in ("completed", "failed", "incomplete")
    if last["type"] == "response.completed":
        assert accumulator._completed_response is not None
        assert accumulator._completed_response.output_text == "".join(
            part["text"] for item in last["response"]["output"] if item["type"] == "message" for part in item["content"]
        )
    check_items(found)
    return found, told


def check_items(found: list[Event]) -> None:
    """Each item is added once, in order, ended once, and the same in the final output."""
    added = [event for event in found if event["type"] == "response.output_item.added"]
    done = [event for event in found if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in added] == list(range(len(added)))
    assert [event["item"]["id"] for event in done] == [event["item"]["id"] for event in added]
    assert len({event["item"]["id"] for event in added}) == len(added)
    assert found[-1]["response"]["output"] == [event["item"] for event in done]
    assert {event["response"]["id"] for event in found if "response" in event} == {ID}


def short(found: list[Event]) -> list[str]:
    """The names of the events between the opening and the end, deltas with their text."""
    names = [event["type"].removeprefix("response.") for event in found]
    assert names[:2] == ["created", "in_progress"]
    return [
        f"{name}:{event['delta']}" if "delta" in event else name
        for name, event in zip(names[2:], found[2:], strict=True)
    ]


def text_events(*pieces: str) -> list[str]:
    deltas = [f"output_text.delta:{piece}" for piece in pieces]
    return [
        *("output_item.added", "content_part.added", *deltas),
        *("output_text.done", "content_part.done", "output_item.done"),
    ]


def thought_events(*pieces: str) -> list[str]:
    deltas = [f"reasoning_text.delta:{piece}" for piece in pieces]
    return ["output_item.added", *deltas, "reasoning_text.done", "output_item.done"]


def call_events(arguments: str) -> list[str]:
    kind = "function_call_arguments"
    return ["output_item.added", f"{kind}.delta:{arguments}", f"{kind}.done", "output_item.done"]


CALL = call(q=1)
CALL_EVENTS = call_events('{"q":1}')

ORDERS: list[tuple[str, list[Event], list[str]]] = [
    ("a text", [text("Seven "), text("bridges."), final()], [*text_events("Seven ", "bridges."), "completed"]),
    (
        "a thought before a text",
        [thought("hm"), thought("..."), text("Yes."), final()],
        [*thought_events("hm", "..."), *text_events("Yes."), "completed"],
    ),
    (
        "a call before a text",
        [CALL, result(), text("3"), final()],
        [*CALL_EVENTS, *text_events("3"), "completed"],
    ),
    (
        "a call between texts",
        [text("Wait."), CALL, result(), text("3"), usage(), final()],
        [*text_events("Wait."), *CALL_EVENTS, *text_events("3"), "completed"],
    ),
    (
        "several of all",
        [
            thought("a"),
            CALL,
            call(call_id="c2"),
            result("c2"),
            result(),
            thought("b"),
            text("c"),
            thought("d"),
            final(),
        ],
        [
            *(*thought_events("a"), *CALL_EVENTS, *call_events("{}"), *thought_events("b")),
            *(*text_events("c"), *thought_events("d"), "completed"),
        ],
    ),
    (
        "a call for the client",
        [CALL, final({"tool_calls": [{"id": "c1", "name": "lookup", "arguments": {"q": 1}}]})],
        [*CALL_EVENTS, "completed"],
    ),
    ("nothing at all", [final()], [*text_events(), "completed"]),
    ("a value only", [final({"n": [1]})], [*text_events('{"n":[1]}'), "completed"]),
    ("a text as value", [final("done")], [*text_events("done"), "completed"]),
    (
        "a structured value",
        [{"type": "structured", "value": {"a": 1}, "schema": None}, final()],
        [*text_events('{"a":1}'), "completed"],
    ),
    ("a failure before all", [error()], ["failed"]),
    ("a failure within a text", [text("Sev"), error()], [*text_events("Sev"), "failed"]),
    ("a failure after a call", [CALL, error()], [*CALL_EVENTS, "failed"]),
    ("cancelled", [text("1 "), error("turn_cancelled")], [*text_events("1 "), "failed"]),
    (
        "cut by the limit",
        [text("Sev"), final({"incomplete": "max_output_tokens"})],
        [*text_events("Sev"), "incomplete"],
    ),
    (
        "sources and unknown events are left out",
        [text("a"), {"type": "source", "title": "t"}, {"type": "whatever"}, text("b"), final()],
        [*text_events("a", "b"), "completed"],
    ),
]


@pytest.mark.parametrize(("events", "expected"), [order[1:] for order in ORDERS], ids=[order[0] for order in ORDERS])
@pytest.mark.parametrize("one_by_one", [True, False], ids=["one by one", "at once"])
def test_orders(events: list[Event], expected: list[str], one_by_one: bool) -> None:
    found, told = stream(*events, one_by_one=one_by_one)
    assert short(found) == expected
    validate_type(type_=Response, value=told.snapshot())
    validate_type(type_=Response, value=doubled(told.snapshot()))


def test_one_text_word_by_word() -> None:
    """The fields of every event of the specification's example."""
    found, told = stream(text("Seven "), text("bridges."), final())
    name = "msg_0123abcd_0"
    place = {"item_id": name, "output_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": []}
    whole = {**empty, "text": "Seven bridges."}
    message = {"id": name, "type": "message", "role": "assistant", "status": "completed", "content": [whole]}
    created, in_progress, *middle, completed = [
        {key: value for key, value in event.items() if key not in ("type", "sequence_number")} for event in found
    ]
    assert created == in_progress
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert middle == [
        {"output_index": 0, "item": {**message, "status": "in_progress", "content": []}},
        {**place, "content_index": 0, "part": empty},
        {**place, "content_index": 0, "delta": "Seven ", "logprobs": []},
        {**place, "content_index": 0, "delta": "bridges.", "logprobs": []},
        {**place, "content_index": 0, "text": "Seven bridges.", "logprobs": []},
        {**place, "content_index": 0, "part": whole},
        {"output_index": 0, "item": message},
    ]
    response = completed["response"]
    assert response == told.snapshot()
    assert (response["status"], response["output"], response["usage"]) == ("completed", [message], None)
    assert (response["created_at"], response["completed_at"]) == (1_790_000_000, 1_790_000_002)


def test_a_call_and_a_thought_word_by_word() -> None:
    found, _ = stream(thought("hm"), CALL, final())
    output = found[-1]["response"]["output"]
    reasoning = {"type": "reasoning", "id": "rs_0123abcd_0", "summary": [], "status": "completed"}
    function = {"type": "function_call", "id": "fc_0123abcd_1", "call_id": "c1", "name": "lookup"}
    assert output[:2] == [
        {**reasoning, "content": [{"type": "reasoning_text", "text": "hm"}]},
        {**function, "arguments": '{"q":1}', "status": "completed"},
    ]
    added = [event["item"] for event in found if event["type"] == "response.output_item.added"]
    assert added[:2] == [
        {**reasoning, "status": "in_progress", "content": []},
        {**function, "arguments": "", "status": "in_progress"},
    ]
    [done] = [event for event in found if event["type"] == "response.function_call_arguments.done"]
    assert done.items() >= {"name": "lookup", "arguments": '{"q":1}', "item_id": "fc_0123abcd_1"}.items()


@pytest.mark.parametrize(
    ("cause", "message", "code", "told"),
    [
        ("agent_error", "no such room", "server_error", "no such room"),
        ("crashed", "", "server_error", EXPLANATIONS[Cause.CRASHED].message),
        ("turn_timeout", "x" * 2000, "server_error", "x" * 999 + "…"),
        ("workers_limit", "full", "rate_limit_exceeded", "full"),
        ("session_queue_full", "full", "rate_limit_exceeded", "full"),
        ("body_invalid", "options: temperature", "invalid_prompt", "options: temperature"),
    ],
)
def test_failures(cause: str, message: str, code: str, told: str) -> None:
    found, kept = stream(text("Sev"), error(cause, message))
    for response in (found[-1]["response"], kept.snapshot()):
        assert (response["status"], response["error"]) == ("failed", {"code": code, "message": told})
        assert response["output"][0]["status"] == "incomplete"
        assert response["completed_at"] is None
    assert kept.status == "failed"


def test_what_is_complete_before_a_failure_stays_so() -> None:
    found, _ = stream(text("One"), CALL, text("Tw"), error(), one_by_one=False)
    statuses = [item["status"] for item in found[-1]["response"]["output"]]
    assert statuses == ["completed", "completed", "incomplete"]


@pytest.mark.parametrize("cause", ["turn_cancelled", "client_gone"])
def test_a_cancelled_one_is_told_as_failed_and_kept_as_cancelled(cause: str) -> None:
    found, kept = stream(text("1 "), error(cause))
    told = found[-1]["response"]
    assert (told["status"], told["error"]) == ("failed", {"code": "server_error", "message": "cancelled"})
    response = kept.snapshot()
    assert (kept.status, response["status"], response["error"]) == ("cancelled", "cancelled", None)
    assert response["output"][0]["content"][0]["text"] == "1 "


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("max_output_tokens", "max_output_tokens"),
        ("content_filter", "content_filter"),
        ("tired", "max_output_tokens"),
    ],
)
def test_incomplete_answers(reason: str, told: str) -> None:
    found, kept = stream(text("Sev"), final({"incomplete": reason}))
    response = found[-1]["response"]
    assert response == kept.snapshot()
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": told})
    assert response["output"][0]["status"] == "incomplete"


def test_usage_is_complete_or_null() -> None:
    found, _ = stream(text("a"), usage(cached_tokens=2, reasoning_tokens=1, audio_tokens=4), final())
    assert found[0]["response"]["usage"] is None
    assert found[-1]["response"]["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 12,
    }


def test_a_usage_that_makes_no_sense_is_complete_too() -> None:
    odd = {"type": "usage", "input_tokens": "5", "output_tokens": 7, "cached_tokens": None, "reasoning_tokens": True}
    found, _ = stream(text("a"), odd, final())
    counts = found[-1]["response"]["usage"]
    assert (counts["input_tokens"], counts["output_tokens"], counts["total_tokens"]) == (0, 7, 7)


def test_calls_of_one_id_are_told_apart() -> None:
    found, _ = stream(call(call_id="c"), result("c"), call(call_id="c"), final())
    assert [item.get("call_id") for item in found[-1]["response"]["output"][:2]] == ["c", "c_1"]


def test_any_text_survives() -> None:
    said = 'quote " backslash \\ line\n\r\u2028\u2029 \x00 nul 🥊 ü'
    found, _ = stream(text(said), call(name="n", q=said), final())
    assert [event["delta"] for event in found if event["type"] == "response.output_text.delta"] == [said]
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == said
    assert orjson.loads(found[-1]["response"]["output"][1]["arguments"]) == {"q": said}


def test_what_is_too_much_is_streamed_but_not_kept() -> None:
    found, kept = stream(text("x" * MAX_CHARACTERS), text("more"), final())
    assert [len(event["delta"]) for event in found if "delta" in event] == [MAX_CHARACTERS, 4]
    assert kept.snapshot()["incomplete_details"] == {"reason": "max_output_tokens"}


def test_more_parts_than_are_kept() -> None:
    told = translator()
    told.opening(None)  # type: ignore[arg-type]
    frames = told.events(items([call(call_id="c") for _ in range(MOST_PARTS + 3)]))
    assert len({event["item"]["call_id"] for event in parsed(list(frames)) if "item" in event}) == MOST_PARTS + 3
    assert len(told._renamed) < MOST_PARTS
    last = parsed(list(told.events(items([final()]))))[-1]
    assert last["type"] == "response.incomplete"
    assert len(last["response"]["output"]) == MOST_PARTS


def test_snapshots_on_the_way() -> None:
    told = translator()
    assert (told.status, told.snapshot()["output"]) == ("queued", [])
    told.opening(None)  # type: ignore[arg-type]
    told.events(items([thought("hm"), text("Sev")]))
    response = told.snapshot()
    validate_type(type_=Response, value=response)
    assert (told.status, response["status"]) == ("in_progress", "in_progress")
    assert [item["status"] for item in response["output"]] == ["completed", "in_progress"]
    assert response["output"][1]["content"][0]["text"] == "Sev"


def test_the_answer_in_one_piece() -> None:
    told = translator()
    told.opening(None)  # type: ignore[arg-type]
    told.events(items([thought("hm"), text("Seven"), final()]))
    answer = told.body(None, None)  # type: ignore[arg-type]
    body = orjson.loads(answer.body)  # type: ignore[arg-type]
    assert answer.status == 200
    assert [item["type"] for item in body["output"]] == ["reasoning", "message"]
    assert body["response"]["output"][0]["content"][0]["text"] == "Seven"
    assert [item["type"] for item in body["response"]["output"]] == ["message", "reasoning"]
    assert "response" not in body["response"]
    assert {key: value for key, value in body.items() if key not in ("response", "output")} == {
        key: value for key, value in body["response"].items() if key != "output"
    }


def test_the_copy_without_a_text_has_the_true_order() -> None:
    told = translator()
    told.opening(None)  # type: ignore[arg-type]
    told.events(items([thought("hm"), CALL, error()]))
    body = doubled(told.snapshot())
    assert [item["type"] for item in body["response"]["output"]] == ["reasoning", "function_call"]


ASKED = {
    "instructions": "Be kind.",
    "metadata": {"a": "b"},
    "parallel_tool_calls": False,
    "temperature": 0.5,
    "top_p": 0.9,
    "max_output_tokens": 100,
    "max_tool_calls": 3,
    "top_logprobs": 2,
    "truncation": "auto",
    "service_tier": "default",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "reasoning": {"effort": "low", "summary": "auto"},
    "user": "ada",
    "tools": [
        {"type": "function", "name": "lookup", "parameters": {"type": "object"}, "strict": True},
        {"type": "web_search_preview", "search_context_size": "low"},
    ],
    "tool_choice": {"type": "function", "name": "lookup"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
    "background": True,
}


def test_what_is_echoed() -> None:
    response = translator(ASKED).snapshot()
    validate_type(type_=Response, value=response)
    assert {name: response[name] for name in ASKED} == ASKED
    assert (response["model"], response["store"], response["object"]) == ("any_name", True, "response")


def test_what_is_told_without_being_asked_for() -> None:
    response = translator({"model": None}).snapshot()
    defaults = {
        "model": "friday",
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "text": {"format": {"type": "text"}},
        "store": True,
        "conversation": None,
    }
    assert {name: response[name] for name in defaults} == defaults


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"conversation": "c"}, {"id": "c"}),
        ({"conversation": {"id": "c"}}, {"id": "c"}),
        ({"session_id": "s"}, {"id": "s"}),
        ({"session_id": "s", "conversation": "c"}, {"id": "s"}),
        ({"previous_response_id": "resp_1"}, None),
        ({}, None),
    ],
)
def test_the_conversation_is_an_object(body: Event, told: Event | None) -> None:
    assert translator(body).snapshot()["conversation"] == told


def test_odd_texts_of_the_request_are_echoed_too() -> None:
    told = translator({"instructions": "\ud800", "tool_choice": "required"})
    [created, _] = told.opening(None)  # type: ignore[arg-type]
    assert b"\\ud800" in created
    assert b'"tool_choice":"required"' in created.replace(b": ", b":")


def test_one_whose_server_was_lost() -> None:
    told = translator()
    told.opening(None)  # type: ignore[arg-type]
    told.events(items([CALL, text("Sev")]))
    lost = as_lost(told.snapshot())
    validate_type(type_=Response, value=lost)
    assert (lost["status"], lost["error"]["code"]) == ("failed", "server_error")
    assert [item["status"] for item in lost["output"]] == ["completed", "incomplete"]
