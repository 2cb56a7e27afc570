"""What of a turn's events is shown, and how: by tables."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli.chat import Conversation, check, new_session
from supervisor.cli.errors import CommandError
from supervisor.cli.summary import Summary, line_of
from supervisor.cli.views import in_one_line, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("\x9b31m\x90q\x85\x7f\0", "\\x9b31m\\x90q\\x85\\x7f\\x00"),
        ("a\rb\r\nc", "a\\rb\nc"),
        ("a\u202eb\u2066c\u2028", "a\\u202eb\\u2066c\\u2028"),
        ("\ud83d", "\\ud83d"),
        ("👨\u200d👩\u200d👧 ❤\ufe0f می\u200cخو \xa0\u3000日本 é\u0301 \u200f", None),
        ("\U0001f3f4\U000e0067\U000e0062\U000e007f \U0001fae9", None),  # a flag, and a code point of a later Unicode
    ],
)
def test_visible(text: str, expected: str | None) -> None:
    assert visible(text) == (text if expected is None else expected)


@given(st.text(st.characters(codec=None)))
def test_nothing_steers(text: str) -> None:
    shown = visible(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in shown)
    shown.encode()
    assert "\n" not in in_one_line(text)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"type": "tool_call", "name": "f", "arguments": {"a": 1, "b": "x\ny"}}, '-> f(a=1, b="x\\ny")'),
        ({"type": "tool_call", "name": "f", "arguments": {}}, "-> f()"),
        ({"type": "tool_call", "name": 5, "arguments": [1]}, "-> 5([1])"),
        ({"type": "tool_result", "name": "f", "output": {"a": "日"}, "ms": 12.0}, '<- f: {"a": "日"}'),
        ({"type": "tool_result", "name": "f", "output": "no", "failed": 1, "ms": 1260.0}, '<- f: failed: "no" (1.3 s)'),
        ({"type": "tool_result"}, "<- : null"),
        ({"type": "text", "text": "x"}, ""),
        ({"type": "something_new"}, ""),
    ],
)  # fmt: skip
def test_lines_of_tools(event: Any, line: str) -> None:
    assert line_of(event) == line


@pytest.mark.parametrize(
    ("events", "answer"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "final"}], "ab"),
        ([{"type": "final", "value": "a"}], "a"),
        ([{"type": "final", "value": {"a": "ü"}}], '{"a": "ü"}'),
        ([{"type": "final", "value": False}], "false"),
        ([{"type": "text", "text": "a"}, {"type": "final", "value": "a"}], "a"),
        ([{"type": "text", "text": ""}, {"type": "final", "value": "a"}], "a"),
        ([{"type": "structured", "value": [1]}, {"type": "final", "value": [1]}], "[1]\n"),
        ([{"type": "text"}, {"type": "text", "text": 5}, {"type": "new"}, {"type": "final"}], "5"),
        ([{"type": "thought", "text": "hm"}, {"type": "turn"}, {"type": "error"}], ""),
    ],
)
def test_answers(events: Any, answer: str) -> None:
    summary = Summary()
    assert "".join(map(summary.answer, events)) == answer


def test_what_is_told_at_the_end() -> None:
    summary = Summary()
    assert (summary.sources(), summary.costs(), summary.losses()) == ([], [], [])
    for source in ({"title": "A", "source": "a.md", "filename": "a.md", "text": "..."}, {"text": "t"}, {}):
        summary.answer({"type": "source", **source})
    summary.answer({"type": "usage", "input_tokens": 9, "output_tokens": 4, "total_tokens": 13, "model": "m"})
    summary.answer({"type": "final", "ms": 1234.5, "lost": 3})
    assert summary.sources() == ["[1] A - a.md", "[2] t", "[3] "]
    assert summary.costs() == ["m, 9 tokens in, 4 tokens out, 13 in all, 1.23 s"]
    assert summary.losses() == ["3 events of this turn were lost; the server's log says why"]
    for _ in range(1000):
        summary.answer({"type": "source", "title": "x"})
    assert summary.sources()[-1] == "... and 903 more sources"
    assert len(summary.sources()) == 101


def test_a_conversation() -> None:
    chat = Conversation(graph="my graph", session="s 1", user="ü", server="http://x")
    assert chat.turn("?") == {"graph": "my graph", "session": "s 1", "user": "ü", "message": "?"}
    assert chat.command == "agentd chat 'my graph' --session 's 1' --user 'ü' --server http://x"
    chat = Conversation(graph="g", session="s", properties={"n": {"p": 1}})
    assert chat.turn("?")["properties"] == {"n": {"p": 1}}
    assert chat.command == "agentd chat g --session s"
    assert new_session() != new_session()


@pytest.mark.parametrize(
    ("question", "said"),
    [(" \n", "empty"), ("x" * (1 << 20) + "x", "more than 1048576"), ("\udcff", "not text in UTF-8")],
)
def test_what_cannot_be_asked(question: str, said: str) -> None:
    with pytest.raises(CommandError, match=said) as caught:
        check(question)
    assert caught.value.exit_code == 2
