"""What friday replies, question by question."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.addons.friday_replies import (
    MOST_COUNTED,
    MOST_NAME,
    MOST_SHOWN,
    Heard,
    asks_about_rooms,
    fallback,
    latest_name,
    pieces,
    replies,
    told_name,
)

SECONDS = 3.0  # a million characters in linear time take a fraction of it, in square time minutes


def reply(question: str, **known: Any) -> str:
    heard = Heard(question=question, **known)
    return "".join(piece for piece, _ in pieces(replies(heard) or [fallback(heard)]))


def counted(last: int) -> str:
    return " ".join(map(str, range(1, last + 1)))


INTRODUCTION = "I am Friday, a demo agent that needs no model."
PARIS = "The capital of France is Paris."
UNKNOWN = "I do not know your name: you have not told me."


def meeting(name: str) -> str:
    return f"Nice to meet you, {name}. I will remember your name."


def unheard(question: str) -> str:
    return f'You said: "{question}". I am a small demo agent and do not know more about that.'


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Who are you?", INTRODUCTION),
        ("WHO ARE YOU", INTRODUCTION),
        ("So,\nwho  are\tyou then?", INTRODUCTION),
        ("tell me who you are", INTRODUCTION),
        ("What is your name?", INTRODUCTION),
        ("what's your name", INTRODUCTION),
        ("What\u2019s your name?", INTRODUCTION),
        ("请问who are you呢", INTRODUCTION),
        ("What is the capital of France?", PARIS),
        ("CAPITAL OF FRANCE", PARIS),
        ("What is my name?", UNKNOWN),
        ("do you know what my name is now", UNKNOWN),
        ("Do you remember my name?", UNKNOWN),
        ("My name is Ada.", meeting("Ada")),
        ("my name is Ada. What is my name?", f"{meeting('Ada')} Your name is Ada."),
        ("What is my name? My name is Ada", f"{meeting('Ada')} Your name is Ada."),
        ("My name is Ada. Who are you?", f"{meeting('Ada')} {INTRODUCTION}"),
        ("count to 3", "1 2 3"),
        ("Please COUNT  to\n3!", "1 2 3"),
        ("count up to 3", "1 2 3"),
        ("count from 1 to 3", "1 2 3"),
        ("count to 003", "1 2 3"),
        ("count to 1", "1"),
        ("count to 50", counted(50)),
        ("count to 1000", counted(1000)),
        ("count to 1,000", counted(1000)),
        ("count to 3, then who are you", f"{INTRODUCTION} 1 2 3"),
        ("count to 1001", "I can count to 1000 at most, so I will not count to 1001."),
        ("count to 12,345", "I can count to 1000 at most, so I will not count to 12345."),
        ("count to " + "9" * 5000, f"I can count to 1000 at most, so I will not count to {'9' * 20}...."),
        ("count to 0", "I count upwards from 1, so I cannot count to 0."),
        ("count to -5", "I count upwards from 1, so I cannot count to -5."),
        ("count to ten", unheard("count to ten")),
        ("recount to 3", unheard("recount to 3")),
        ("repeat after me: one  two", "one  two"),
        ("repeat this is it", "this is it"),
        ("Say hello\nworld", "hello\nworld"),
        ("please say: hi", "hi"),
        ("say 'x'", "'x'"),
        ("say", unheard("say")),
        ("sayonara", unheard("sayonara")),
        ("say who are you", INTRODUCTION),
        ("Hello there", unheard("Hello there")),
        ("  Grüße 👋 \n", unheard("Grüße 👋")),
        ("my name", unheard("my name")),
        ("my name is 😀", unheard("my name is 😀")),
        ("x" * (MOST_SHOWN + 1), unheard("x" * MOST_SHOWN + "...")),
        ("", "I heard no question. Ask me who I am, for example."),
        (" \n", "I heard no question. Ask me who I am, for example."),
        (
            "What does the attached file say?",
            'You said: "What does the attached file say?". I was given no file or image with it.',
        ),
        ("Describe this image", 'You said: "Describe this image". I was given no file or image with it.'),
    ],
)
def test_replies(question: Any, answer: Any) -> None:
    assert reply(question) == answer


def test_what_is_known_is_told() -> None:
    assert reply("who are you", agent="Max") == "I am Max, a demo agent that needs no model."
    assert reply("what is my name", name="Łucja") == "Your name is Łucja."
    assert reply("My name is Bob. What is my name?", name="Ada").endswith("Your name is Bob.")


FILES = ("a.txt (text/plain, 3 bytes)", "image b.png (image/png, 9 bytes)")


@pytest.mark.parametrize(
    ("question", "before"),
    [("", ""), ("Describe this image", ""), ("hello", ""), ("count to 2", "1 2 "), ("repeat x  y", "x  y ")],
)
def test_files_are_named_whatever_the_question(question: Any, before: Any) -> None:
    assert reply(question, files=FILES) == f"{before}You gave me 2 files: {'; '.join(FILES)}."
    assert reply(question, files=FILES[:1]) == f"{before}You gave me one file: {FILES[0]}."


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("my name is Ada", "Ada"),
        ("My Name Is ada!", "ada"),
        ("my  name\nis   Ada", "Ada"),
        ("my name is: Ada", "Ada"),
        ('my name is "Ada".', "Ada"),
        ("my name is Ada Lovelace", "Ada"),
        ("my name is Jean-Luc-", "Jean-Luc"),
        ("my name is O\u2019Brien", "O\u2019Brien"),
        ("my name is Ada's", "Ada's"),
        ("my name is R2D2", "R2D2"),
        ("my name is Łukasz", "Łukasz"),
        ("my name is Ольга,", "Ольга"),
        ("my name is 小明。", "小明"),
        ("my name is प्रिया!", "प्रिया"),
        ("my name is سارة؟", "سارة"),
        ("my name is Zoe\u0308", "Zoe\u0308"),
        ("my name is Bob. No, my name is Ada.", "Ada"),
        ("my name is Ada, my name is 5", "Ada"),
        ("my name is 5", ""),
        ("my name is", ""),
        ("my name is ", ""),
        ("my name is?", ""),
        ("my name isAda", ""),
        ("dummy name is Ada", ""),
        ("what my name is now", ""),
        ("", ""),
        ("my name is " + "x" * 1000, "x" * MOST_NAME),
    ],
)
def test_names(text: Any, name: Any) -> None:
    assert told_name(text) == name


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "name"),
    [
        ([], ""),
        ([user("my name is Ada"), user("what is my name")], "Ada"),
        ([user("my name is Ada"), user("my name is Bob"), user("hi")], "Bob"),
        ([user("my name is Ada"), {"role": "assistant", "content": "my name is Friday"}], "Ada"),
        ([{"role": "system", "content": "my name is Eve"}], ""),
        ([user([{"type": "text", "text": "my name is Ada"}, {"type": "image"}])], "Ada"),
        ([user(None), user(5), user({}), user([5, None]), {"role": "user"}, {}], ""),
    ],
)
def test_the_latest_name_of_the_users(messages: Any, name: Any) -> None:
    assert latest_name(messages) == name


@pytest.mark.parametrize(
    ("question", "asks"),
    [
        ("Is a meeting room free?", True),
        ("Conference  Room 4", True),
        ("A12会议室", True),
        ("Is my room tidy?", False),
    ],
)
def test_questions_about_meeting_rooms(question: Any, asks: Any) -> None:
    assert asks_about_rooms(question) is asks


def test_each_number_is_a_piece_with_a_pause_before_all_but_the_first() -> None:
    said = list(pieces(replies(Heard(question="count to 1000"))))
    assert [piece.strip() for piece, _ in said] == [str(number) for number in range(1, MOST_COUNTED + 1)]
    assert [paused for _, paused in said] == [False] + [True] * (MOST_COUNTED - 1)
    assert said[-1][0] == "1000"


def test_text_comes_word_by_word_without_pauses() -> None:
    assert list(pieces(["Two parts", "of it."])) == [(word, False) for word in ("Two ", "parts ", "of ", "it.")]


@given(st.text(max_size=300))
def test_any_text_is_answered(text: Any) -> None:
    assert reply(text)


HOSTILE = [
    "my ", "my name ", "my name is ", "my name is: ", "my name is a-", "what ", "what my name is ", "who ", "count ",
    "count to ", "count to 1,", "1", "9,999", "count to 1,999", " ", "\n", "repeat ", "say:", "please ", "say  after ",
    "capital of ", "the file ", "the ", "attach", "\u0301", "a\u0301", "会", "my name is \u0301", "-", "'", "\0",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("tail", ["", "!"])
def test_a_million_hostile_characters_take_linear_time(unit: Any, tail: Any) -> None:
    text = unit * (1_000_000 // len(unit)) + tail
    began = time.perf_counter()
    assert reply(text)
    latest_name([user(text)])
    asks_about_rooms(text)
    assert time.perf_counter() - began < SECONDS
