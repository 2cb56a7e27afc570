"""Names, types and kinds of files; states of tasks; what attachments take: by tables and by laws."""

import mimetypes
import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.attachments.books import Books
from supervisor.attachments.names import (
    MOST_NAME_BYTES,
    TEXT_FILE,
    is_id,
    kind_of,
    media_type_of,
    name_of,
    owner_of,
    tokens_of,
)
from supervisor.attachments.state import Status, TaskState
from supervisor.causes import Cause, Refusal

UUID = "0d8f4b0e-6f2c-4c7e-9a55-2f6a4f7e1c33"


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("note.txt", "note.txt"),
        ("../../x", "x"),
        ("/etc/passwd", "passwd"),
        ("C:\\docs\\a.TXT", "a.TXT"),
        ("a/..", UUID),
        ("a/b/", UUID),
        ("a\\..\\b.md", "b.md"),
        ("..", UUID),
        ("...", UUID),
        ("   ", UUID),
        ("", UUID),
        ("\0", UUID),
        ("\u200d", UUID),
        (".pdf", f"{UUID}.pdf"),
        (" \0.DOCX", f"{UUID}.DOCX"),
        ("...tar.gz", "tar.gz"),
        (".gitignore", "gitignore"),
        (".text", f"{UUID}.text"),
        ("a\0b.txt", "ab.txt"),
        ("a\r\nb\t.txt", "ab.txt"),
        ("a\x7f\x85b", "ab"),
        ("a\u2028b\u2029c", "abc"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("\u2066a\u2069.txt", "a.txt"),
        ("\ufeffa.txt", "a.txt"),
        ("x\udcff\ud800.md", "x.md"),
        ("a.", "a"),
        ("a. . .", "a"),
        (" a .txt", "a .txt"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("Nul .txt", "_Nul .txt"),
        ("COM7.log", "_COM7.log"),
        ("lpt\u00b2", "_lpt\u00b2"),
        ("console.txt", "console.txt"),
        ("日本 語.pdf", "日本 語.pdf"),
        ("नमस्ते\u200d.txt", "नमस्ते\u200d.txt"),
        ("👩\u200d💻.md", "👩\u200d💻.md"),
        ("-rf", "-rf"),
        ("~", "~"),
        ("a;rm -rf $HOME.txt", "a;rm -rf $HOME.txt"),
        ("y" * 5000 + ".pdf", "y" * 251 + ".pdf"),
        ("é" * 5000 + ".md", "é" * 126 + ".md"),
        ("日" * 200, "日" * 85),
        ("a." + "é" * 200, "a." + "é" * 126),
        ("con." + "y" * 300, "_con." + "y" * 250),
    ],
)
def test_names(given_name: str, name: str) -> None:
    assert name_of(given_name, UUID) == name


@given(st.text() | st.text(alphabet="./\\\0 \u202e\ud800aé日", max_size=600))
def test_any_name_is_safe(text: str) -> None:
    name = name_of(text, UUID)
    assert 0 < len(name.encode()) <= MOST_NAME_BYTES
    assert not set(name) & set("/\\\0")
    assert not name.startswith(".")
    assert not name.endswith((".", " "))
    assert all(c.isprintable() or c in "\u200c\u200d" or unicodedata.category(c) == "Zs" for c in name)
    assert name != TEXT_FILE
    assert name_of(name, UUID) == name  # what is safe stays


@pytest.mark.parametrize(
    ("name", "media_type", "kind"),
    [
        ("note.txt", "text/plain", "text"),
        ("NOTE.TXT", "text/plain", "text"),
        ("a.md", "text/markdown", "text"),
        ("a.csv", "text/csv", "text"),
        ("a.json", "application/json", "text"),
        ("a.xml", "application/xml", "text"),
        ("a.py", "text/x-python", "text"),
        ("a.html", "text/html", "html"),
        ("a.pdf", "application/pdf", "pdf"),
        ("a.tar.gz", "application/gzip", None),
        ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx"),
        ("a.png", "image/png", None),
        ("a.jpeg", "image/jpeg", None),
        ("a.svg", "image/svg+xml", None),
        ("a.xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", None),
        ("README", "application/octet-stream", "unknown"),
        ("a.weird", "application/octet-stream", "unknown"),
        ("pdf", "application/octet-stream", "unknown"),
        (f"a.{'x' * 40}", "application/octet-stream", "unknown"),
    ],
)
def test_types_and_kinds(name: str, media_type: str, kind: str | None) -> None:
    assert media_type_of(name) == media_type
    assert kind_of(media_type) == kind


def test_types_are_not_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mimetypes, "types_map", {".txt": "image/evil", ".weird": "image/evil"})
    assert media_type_of("a.txt") == "text/plain"
    assert media_type_of("a.weird") == "application/octet-stream"


def test_a_user_makes_no_path() -> None:
    owners = [owner_of(user) for user in ("ada", "../../etc", "a/b", "a@b.example", "\ud800", "", "x" * 100_000)]
    assert len(set(owners)) == len(owners)
    assert all(len(owner) == 64 and owner.isalnum() for owner in owners)


@pytest.mark.parametrize(
    ("text", "fits"),
    [(UUID, True), (UUID.upper(), False), (UUID[:-1], False), (f"{UUID}\n", False), ("../" + UUID, False), ("", False)],
)
def test_ids(text: str, fits: bool) -> None:
    assert is_id(text) is fits


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (48, 12), (1_000_000, 250_000)])
def test_tokens(size: int, tokens: int) -> None:
    assert tokens_of(size) == tokens


def state() -> TaskState:
    return TaskState(id="t", attachment_id="a", name="n", mime_type="m")


def test_states_only_go_forward() -> None:
    order = list(Status)
    chance = random.Random(7)
    seen = set()
    for _ in range(300):
        task, before, current = state(), Status.PENDING, 0
        for _ in range(12):
            chance.choice(
                [
                    task.begin,
                    lambda task=task: task.advance(chance.randrange(-5, 300)),
                    lambda task=task: task.succeed(3),
                    lambda task=task: task.fail("why"),
                ]
            )()
            assert order.index(task.status) >= order.index(before)
            assert not (before in (Status.SUCCESS, Status.FAILURE) and task.status is not before)
            assert current <= task.current < 100
            before, current = task.status, task.current
            seen.add(before)
    assert seen == set(Status)


def test_books() -> None:
    books = Books(100, 150)
    books.open({"ada": 40})
    books.take("ada", 60)
    with pytest.raises(Refusal, match="100 of 100 bytes; 1 more do not fit") as caught:
        books.take("ada", 1)
    assert caught.value.cause is Cause.UPLOAD_FAILED
    books.take("bob", 50)
    with pytest.raises(Refusal, match="no room for more attachments"):
        books.take("bob", 1)
    assert (books.total, books.taken("bob")) == (150, 50)
    books.add("bob", 5)  # a text, which is kept in any case
    books.give("bob", 55)
    books.give("ada", 100)
    assert (books.total, books.taken("ada"), books._taken) == (0, 0, {})
