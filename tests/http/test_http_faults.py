"""What is wrong with a body, in words; and that nobody can make the server look through a body for long."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from supervisor.http.faults import MOST_FIELDS, MOST_MESSAGES, MOST_PARTS, BodyRefusal, checked, place_name


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    count: int


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    inner: list[Inner] = []
    messages: list[dict[str, Any]] = []


def refused(body: dict[str, Any]) -> BodyRefusal:
    with pytest.raises(BodyRefusal) as raised:
        checked(Body, body, messages=("messages",), entries={"inner": 9})
    return raised.value


@pytest.mark.parametrize(
    ("body", "place", "kind", "text"),
    [
        ({}, ("name",), "missing", "name is missing"),
        ({"name": 1}, ("name",), "string_type", "name: Input should be a valid string (it is 1)"),
        (
            {"name": "", "inner": [{"count": 1}, {"count": "x"}]},
            ("inner", 1, "count"),
            "int_type",
            "inner[1].count: Input should be a valid integer (it is 'x')",
        ),
        (
            {"name": "", "other": 1},
            ("other",),
            "extra_forbidden",
            "other is no field of this request; known are name, inner, messages",
        ),
    ],
)
def test_a_fault_names_the_place_the_value_and_what_is_allowed(
    body: dict[str, Any], place: tuple[Any, ...], kind: str, text: str
) -> None:
    refusal = refused(body)
    assert [(fault.place, fault.kind) for fault in refusal.faults] == [(place, kind)]
    assert refusal.detail == text


def test_of_many_faults_the_first_are_told() -> None:
    refusal = refused({"name": "", "inner": [{}] * 9})
    assert [fault.name for fault in refusal.faults] == [f"inner[{n}].count" for n in range(5)]
    assert refusal.detail.endswith("; and 4 more")


def test_a_long_value_is_not_repeated() -> None:
    assert "xxx" not in refused({"name": "", "inner": [{"count": "x" * 100}]}).detail


def test_places_in_words() -> None:
    assert [place_name(place) for place in ((), ("a",), ("a", 0, "b"), ("a", 0, 1))] == ["", "a", "a[0].b", "a[0][1]"]


def test_too_many_messages_and_parts() -> None:
    most = {"name": "", "messages": [{"parts": [1] * (MOST_PARTS // MOST_MESSAGES)}] * MOST_MESSAGES}
    assert len(checked(Body, most, messages=("messages",)).messages) == MOST_MESSAGES
    refusal = refused({"name": "", "messages": [{}] * (MOST_MESSAGES + 1)})
    assert refusal.detail == "messages has 4097 messages; at most 4096 are allowed"
    refusal = refused({"name": "", "messages": [{"a": [1] * MOST_PARTS}, {"b": [1]}]})
    assert refusal.detail == "messages has messages with 16385 parts; at most 16384 are allowed"
    assert [(fault.place, fault.kind) for fault in refusal.faults] == [(("messages",), "too_long")]


def test_too_many_fields_and_entries() -> None:
    refusal = refused({str(n): 0 for n in range(MOST_FIELDS + 1)})
    assert (refusal.detail, refusal.faults[0].place) == ("the body has 1025 fields; at most 1024 are allowed", ())
    refusal = refused({"name": "", "inner": [{}] * 10})
    assert refusal.detail == "inner has 10 entries; at most 9 are allowed"


def test_a_long_key_is_not_repeated() -> None:
    assert refused({"name": "", "x" * 1000: 1}).faults[0].name == "x" * 64
