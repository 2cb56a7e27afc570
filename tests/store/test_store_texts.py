"""What agents say, made storable and bounded."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.store.records import ConversationKey
from supervisor.store.texts import (
    LEAST_BYTES,
    MOST_DEPTH,
    NAME_BYTES,
    Budget,
    clean,
    cut,
    cut_json,
    escape,
    from_json,
    name_of,
    size,
    to_json,
    unescape,
)

ANY_TEXT = st.text(st.characters(exclude_categories=[]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("Zoë 🎉", "Zoë 🎉"),
        ("a\0b", "a\ufffdb"),
        ("\ud800x", "\ufffdx"),
        ("x\udfff", "x\ufffd"),
        ("\ud83c\udf89", "\ufffd\ufffd"),
        ("é\0\ud800", "é\ufffd\ufffd"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@given(ANY_TEXT)
def test_clean_text_can_be_stored(text: str) -> None:
    assert b"\0" not in clean(text).encode()


@given(ANY_TEXT | st.text("\\0dfé\0\ud800"))
def test_an_escaped_text_can_be_stored_and_given_back_exactly(text: str) -> None:
    assert clean(escape(text)) == escape(text)
    assert unescape(escape(text)) == text


def test_what_is_escaped() -> None:
    assert escape("Zoë 🎉") == "Zoë 🎉"
    assert escape("\0\\\udfff") == r"\0000\005c\dfff"


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 5000, "🎉" * 5000])
@pytest.mark.parametrize("limit", [100, 1001, 4999])
def test_cut_keeps_characters_whole(text: str, limit: int) -> None:
    short = cut(text, limit)
    assert size(short) <= limit
    assert text.startswith(short.partition("…")[0])
    assert f"[cut: {size(text)} bytes, " in short


def test_what_fits_is_not_cut() -> None:
    assert cut("é" * 50, 100) == "é" * 50


def test_names() -> None:
    assert name_of("lobby") == "lobby"
    assert name_of("Zoë's röom") == "Zoë's röom"
    assert name_of("x" * NAME_BYTES) == "x" * NAME_BYTES
    odd = ["a\0", "a\ufffd", "a\ud800", "a\ud801", "x" * 10_000, "x" * 10_000 + "y", "é" * 10_000]
    names = [name_of(text) for text in odd]
    assert len(set(names)) == len(odd)
    assert all(size(name) <= NAME_BYTES for name in names)
    assert name_of("x" * 10_000) == names[4]


def test_keys_are_told_apart_by_all_of_them() -> None:
    keys = [("ab", "c", ""), ("a", "bc", ""), ("a", "b", "c"), ("", "", ""), ("\ud800", "", ""), ("\0", "", "")]
    keys += [("x" * 10_000, "", ""), ("x" * 9_999, "x", "")]
    ids = {ConversationKey(*key).id for key in keys}
    assert len(ids) == len(keys)
    assert {len(one) for one in ids} == {40}


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (2**63, 2**63),
        (-(2**200), -(2**200)),
        (1 << 9000, "[cut: a number of 9001 bits]"),
        ([math.nan, math.inf, -math.inf, 1.5], [None, None, None, 1.5]),
        ({"a": math.nan, "big": 2**70}, {"a": None, "big": 2**70}),
        ("a\0b", "a\0b"),
        (["\ud800", 2**70], ["\ufffd", 2**70]),
        ({"\ud800": 1}, {"\ufffd": 1}),
        ({1: 2, "big": 2**70}, {"1": 2, "big": 2**70}),
        ([{1, 2}], ["[not JSON: set]"]),
        ((1, 2), [1, 2]),
        ("'; DROP TABLE turns; --", "'; DROP TABLE turns; --"),
    ],
)
def test_values(value: object, stored: object) -> None:
    text = to_json(value)
    assert "\0" not in text
    assert from_json(text) == stored


def test_deep_values() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    text = to_json(deep)
    assert f"[cut: more than {MOST_DEPTH} levels]" in text
    assert from_json(text)


@given(JSON)
def test_any_value_can_be_stored(value: object) -> None:
    text = to_json(value)
    assert "\0" not in text
    text.encode()
    json.loads(text)


@given(JSON, st.integers(min_value=LEAST_BYTES, max_value=3000))
def test_any_value_is_cut_to_size(value: object, limit: int) -> None:
    assert size(cut_json([value] * 30, limit)) <= limit


def test_long_texts_are_cut_before_items_are_dropped() -> None:
    calls = [{"id": str(n), "name": "tool", "output": "x" * 50_000} for n in range(3)]
    stored = from_json(cut_json(calls, 20_000))
    assert [call["name"] for call in stored] == ["tool"] * 3
    assert all("[cut: 50000 bytes" in call["output"] for call in stored)


def test_items_that_do_not_fit_are_dropped_with_a_mark() -> None:
    stored = from_json(cut_json([{"n": n} for n in range(10_000)], 2000))
    assert stored[:3] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert stored[-1] == {"cut": f"{size(to_json([{'n': n} for n in range(10_000)]))} bytes"}


def test_an_object_that_does_not_fit_is_a_mark() -> None:
    assert list(from_json(cut_json({str(n): n for n in range(10_000)}, 2000))) == ["cut"]


def test_half_an_image_is_none() -> None:
    url = "data:image/png;base64," + "A" * 100_000
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": url}}]
    [message] = from_json(cut_json([{"role": "user", "content": parts}], 10_000))
    whole = size(to_json(parts[1]))
    assert message == {
        "role": "user",
        "content": [{"type": "text", "text": "look"}, {"type": "text", "text": f"[cut: image_url, {whole} bytes]"}],
    }


def test_a_budget_is_spent_in_order() -> None:
    budget = Budget(10_000)
    assert budget.text("x" * 8000) == "x" * 8000
    assert 900 < size(budget.json("y" * 8000)) <= 2000
    assert size(budget.text("z" * 8000)) <= 10_000 - budget.used + LEAST_BYTES
    assert size(budget.text("z" * 8000)) <= LEAST_BYTES
    assert budget.used <= 10_000 + 2 * LEAST_BYTES
