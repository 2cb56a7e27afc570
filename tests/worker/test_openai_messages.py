"""What a model is shown of a turn."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.harness.openai_server import mismatch
from worker.addons import openai_attachments
from worker.addons.openai_attachments import MAX_TEXT, AttachmentError, parts_of
from worker.addons.openai_messages import ConversationError, conversation
from worker.agent import Attachment


def said(role: str, content: Any, **more: Any) -> Any:
    return {"role": role, "content": content, **more}


def call(number: int) -> Any:
    return {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def asked(*numbers: int, content: Any = None) -> Any:
    return said("assistant", content, tool_calls=[call(number) for number in numbers])


def answer(number: int) -> Any:
    return said("tool", "42", tool_call_id=f"c{number}")


def shown(messages: Any, **given: Any) -> Any:
    values = {"prompt": "", "instructions": None, "history": [], "most": 10, **given}
    return conversation(messages=messages, **values)


Q, A = said("user", "q"), said("assistant", "a")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"messages": [Q]}, [Q]),
        ({"messages": [{"content": "q"}]}, [Q]),
        ({"messages": [Q], "prompt": "P"}, [said("system", "P"), Q]),
        ({"messages": [Q], "instructions": "I"}, [said("system", "I"), Q]),
        ({"messages": [Q], "prompt": "P", "instructions": "I"}, [said("system", "P\n\nI"), Q]),
        ({"messages": [said("system", "S"), Q], "prompt": "P"}, [said("system", "P"), said("system", "S"), Q]),
        ({"messages": [Q], "history": [Q, A]}, [Q, A, Q]),
        ({"messages": [Q], "history": [Q, A, Q, A], "most": 3}, [A, Q, A, Q]),
        ({"messages": [Q], "history": [Q, A], "most": 0}, [Q]),
        ({"messages": [Q, A, Q], "history": [Q, A], "most": 1}, [A, Q, A, Q]),  # the turn's own are never cut
        # only what the protocol knows; an object as JSON; nothing as nothing
        ({"messages": [said("user", "q", id=7, name="Ada")]}, [said("user", "q", name="Ada")]),
        ({"messages": [said("user", {"ä": 1})]}, [said("user", '{"ä": 1}')]),
        ({"messages": [said("user", None)]}, [said("user", "")]),
        (
            {"messages": [said("user", [{"type": "text", "text": "q"}])]},
            [said("user", [{"type": "text", "text": "q"}])],
        ),
        # history that does not fit is left out
        ({"messages": [Q], "history": [said("robot", "x"), A]}, [A, Q]),
        ({"messages": [Q], "history": [said("assistant", "x", tool_calls="y")]}, [Q]),
        ({"messages": [Q], "history": [answer(1), A]}, [A, Q]),
        ({"messages": [Q], "history": [Q, asked(1), answer(1), A], "most": 2}, [A, Q]),
        ({"messages": [Q], "history": [Q, asked(1), answer(1), A], "most": 3}, [asked(1), answer(1), A, Q]),
        ({"messages": [Q], "history": [asked(1, 2), answer(2)]}, [asked(2), answer(2), Q]),
        ({"messages": [Q], "history": [asked(1, content="x")]}, [said("assistant", "x"), Q]),
        ({"messages": [Q], "history": [asked(1)]}, [Q]),
        ({"messages": [Q], "history": [asked(1), answer(1), answer(1)]}, [asked(1), answer(1), Q]),
        ({"messages": [Q], "history": [asked(1), A, answer(1)]}, [A, Q]),
        # calls as a transcript keeps them
        (
            {
                "messages": [Q],
                "history": [
                    said("assistant", "x", tool_calls=[{"id": "c1", "name": "f", "arguments": {}, "output": 5}]),
                    answer(1),
                ],
            },
            [asked(1, content="x"), answer(1), Q],
        ),
        # the answers to the calls that the last turn left to the client
        ({"messages": [answer(1)], "waiting": [asked(1)]}, [asked(1), answer(1)]),
        ({"messages": [answer(1)], "waiting": [asked(1)], "history": [Q]}, [Q, asked(1), answer(1)]),
        (
            {"messages": [answer(1)], "waiting": [asked(1, content="y")], "history": [Q, said("assistant", "xy")]},
            [Q, asked(1, content="xy"), answer(1)],
        ),
        (
            {"messages": [answer(2), Q], "waiting": [asked(1, 2), answer(1)], "history": [Q, said("assistant", "")]},
            [Q, asked(1, 2), answer(1), answer(2), Q],
        ),
        ({"messages": [asked(1), answer(1)], "waiting": [asked(1)]}, [asked(1), answer(1)]),  # the client tells all
        ({"messages": [answer(1)], "waiting": [asked(1, 2)]}, [asked(1), answer(1)]),
        ({"messages": [Q], "waiting": [asked(1)]}, [Q]),  # another question: the calls are forgotten
        # attachments belong to the last question
        (
            {"messages": [Q, A], "parts": [{"type": "x"}]},
            [said("user", [{"type": "text", "text": "q"}, {"type": "x"}]), A],
        ),
        (
            {"messages": [said("user", [{"type": "y"}])], "parts": [{"type": "x"}]},
            [said("user", [{"type": "y"}, {"type": "x"}])],
        ),
        ({"messages": [said("user", "")], "parts": [{"type": "x"}]}, [said("user", [{"type": "x"}])]),
        ({"messages": [], "parts": [{"type": "x"}]}, [said("user", [{"type": "x"}])]),
    ],
)
def test_a_conversation(given: Any, expected: Any) -> None:
    messages = shown(**given)
    assert messages == expected
    assert mismatch(messages) == ""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": [Q, said("robot", "x")]}, r"messages\[1\].role: 'robot'; allowed are system, developer, user, "),
        ({"messages": [said("assistant", "", tool_calls=[1])]}, r"messages\[0\].tool_calls: \[1\]; allowed is a list"),
        ({"messages": [Q, answer(9)]}, "the tool call 'c9', which is not in the conversation"),
        ({"messages": [answer(9)], "waiting": [asked(1)]}, "the tool call 'c9'"),
        ({"messages": [said("tool", "x")]}, "the tool call None"),
    ],
)
def test_what_cannot_be_shown_is_named(given: Any, told: str) -> None:
    with pytest.raises(ConversationError, match=told):
        shown(**given)


def test_nothing_that_is_given_is_changed() -> None:
    waiting, messages = [asked(1, content="y")], [answer(1)]
    shown(messages, waiting=waiting, history=[said("assistant", "xy")], parts=[{"type": "x"}])
    assert (waiting, messages) == ([asked(1, content="y")], [answer(1)])


# ---------------------------------------------------------------------- attachments


def file(folder: Path, name: str, kind: str, data: bytes | None = b"", text: str | None = None) -> Attachment:
    if data is not None:
        (folder / name).write_bytes(data)
    return Attachment(id="1", name=name, mime_type=kind, path=str(folder / name), text=text)


def test_attachments_are_shown_by_their_kind(tmp_path: Path) -> None:
    parts = parts_of(
        [
            file(tmp_path, "a.pdf", "application/pdf", text="read out"),
            file(tmp_path, "b.PNG", "Image/PNG; x=y", b"\x89PNG"),
            file(tmp_path, "c.csv", "text/csv; charset=utf-8", "a,ü\xff".encode("latin-1")),
            file(tmp_path, "d.zip", "application/zip", b"PK"),
        ]
    )
    assert parts == [
        {"type": "text", "text": "File a.pdf:\nread out"},
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{base64.b64encode(bytes([137]) + b'PNG').decode()}"},
        },
        {"type": "text", "text": "File c.csv:\na,��"},
        {"type": "text", "text": "[The file d.zip (application/zip) is attached, but it cannot be read here.]"},
    ]


def test_long_text_is_cut_and_says_so(tmp_path: Path) -> None:
    [part] = parts_of([file(tmp_path, "a.txt", "text/plain", text="x" * (MAX_TEXT + 5))])
    assert part["text"].endswith(f"x\n[cut here: {MAX_TEXT} of {MAX_TEXT + 5} characters]")
    assert len(part["text"]) < MAX_TEXT + 100


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_attachments, "MAX_IMAGE", 10)
    monkeypatch.setattr(openai_attachments, "MAX_BYTES", 25)
    ten = [file(tmp_path, f"{n}.png", "image/png", b"x" * 10) for n in range(3)]
    assert len(parts_of(ten[:2])) == 2
    with pytest.raises(AttachmentError, match=r"'2.png' is too large .* 10 bytes for an image and 25 for all files"):
        parts_of(ten)
    with pytest.raises(AttachmentError, match=r"'big.png' is too large"):
        parts_of([file(tmp_path, "big.png", "image/png", b"x" * 11)])


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(AttachmentError, match=r"'a.png' cannot be read: No such file"):
        parts_of([file(tmp_path, "a.png", "image/png", None)])
