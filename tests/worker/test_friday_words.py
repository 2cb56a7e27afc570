"""Texts in pieces: they are words, they join to the text, and huge texts take linear time."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.addons.contents import asked, exact_text
from worker.addons.words import MOST_CHARACTERS, first_words, words

SECONDS = 3.0  # a million characters in linear time take a fraction of it, in square time minutes


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("one", ["one"]),
        ("I am Friday.", ["I ", "am ", "Friday."]),
        ("  two  words\n", ["  two  ", "words\n"]),
        (" \t\n", [" \t\n"]),
        ("查询A12会议室", ["查", "询", "A12", "会", "议", "室"]),
        ("空闲 (Idle)。", ["空", "闲 ", "(Idle)。"]),
        ("naïve 👩‍👩‍👧 שלום", ["naïve ", "👩‍👩‍👧 ", "שלום"]),
        ("x" * (MOST_CHARACTERS + 1), ["x" * MOST_CHARACTERS, "x"]),
    ],
)
def test_words(text: Any, pieces: Any) -> None:
    assert list(words(text)) == pieces


@given(st.text(max_size=200))
def test_words_join_to_the_text(text: Any) -> None:
    pieces = list(words(text))
    assert "".join(pieces) == text
    assert all(pieces)


@pytest.mark.parametrize("unit", ["x", " ", "x ", "\n", "会", "\u0301", "会 ", "👩\u200d"])
def test_a_huge_text_takes_linear_time(unit: Any) -> None:
    text = unit * (1_000_000 // len(unit))
    began = time.perf_counter()
    pieces = list(words(text))
    assert time.perf_counter() - began < SECONDS
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= MOST_CHARACTERS


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        (" \n ", ""),
        ("one", "one"),
        ("one\n two\tthree ", "one two three"),
        ("one two three four", "one two three..."),
        ("x" * 50, "x" * 20 + "..."),
        ("x" * 20, "x" * 20),
        (" " * 1000 + "late", "..."),
        ("会" * 30, "会" * 20 + "..."),
    ],
)
def test_first_words(text: Any, shown: Any) -> None:
    assert first_words(text, 3, 20) == shown


TEXT = {"type": "text", "text": "Look: "}
IMAGE = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("  as it\nis ", "  as it\nis "),
        ("", ""),
        (None, ""),
        ([], ""),
        ([TEXT, {"type": "text", "text": "a dog."}], "Look: a dog."),
        ([TEXT, IMAGE], "Look: "),
        ([IMAGE], '[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]'),
        ({"text": "x", "ü": [1, None]}, '{"text":"x","ü":[1,null]}'),
    ],
)
def test_a_content_as_exact_text(content: Any, text: Any) -> None:
    assert exact_text(content) == text


@pytest.mark.parametrize(
    ("messages", "content"),
    [
        ([], None),
        ([{"role": "system", "content": "s"}], None),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "a"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": {"x": 1}}], {"x": 1}),
        ([{"content": "a"}], "a"),
        ([{"role": "user"}], None),
    ],
)
def test_what_was_asked(messages: Any, content: Any) -> None:
    assert asked(messages) == content
