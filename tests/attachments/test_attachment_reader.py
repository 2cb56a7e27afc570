"""What the reader finds in files: real ones, damaged ones and hostile ones, each in a real process."""

import codecs
import io
import json
import os
import resource
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from supervisor.attachments.reading import COMMAND, MOST_CHARACTERS
from tests.harness.documents import PART, encrypted_pdf, pdf, pdf_bomb, word, word_with
from worker.reader.plain import is_binary, read_text, read_unknown
from worker.reader.word import read_docx

TABLE = [["bay", "state"], ["7", "free"]]
PAGE = b"""<html><head><title>T</title><style>p{}</style></head>
<body><p>Hi  <b>you</b></p><script>evil()</script><p>bye</p></body></html>"""
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'

INSIDE = f"""<w:document {W}><w:body><w:sdt><w:sdtContent><w:p><w:r><w:t>in</w:t><w:tab/><w:t>a</w:t><w:br/>
<w:delText>gone</w:delText></w:r></w:p></w:sdtContent></w:sdt></w:body></w:document>"""


def nested(depth: int, wrapped: bool = False) -> bytes:
    """Tables in tables, with a text to either side of each; `wrapped` in what programs put around rows and cells."""
    open_, close = ("<w:sdt><w:sdtContent>", "</w:sdtContent></w:sdt>") if wrapped else ("", "")
    inner = ""
    for number in range(depth, 0, -1):
        cells = [f"<w:tc>{PARAGRAPH % f'{side}{number};'}" for side in ("left", "right")]
        row = f"{cells[0]}{inner}</w:tc>{open_}{cells[1]}</w:tc>{close}"
        inner = f"<w:tbl><w:tblPr/>{open_}<w:tr>{row}</w:tr>{close}</w:tbl>{PARAGRAPH % ''}"
    return word_with(PART, f"<w:document {W}><w:body>{inner}</w:body></w:document>".encode())


PARAGRAPH = "<w:p><w:r><w:t>%s</w:t></w:r></w:p>"


class Result:
    def __init__(self, folder: Path, done: Any) -> None:
        self.status = done.returncode
        self.said = done.stdout.split()
        self.complaint = done.stderr
        self.outcome = json.loads((folder / "result").read_bytes())["outcome"] if self.status == 0 else None
        text = folder / "text"
        self.text = text.read_bytes().decode() if text.exists() else None


def run(folder: Path, kind: str, data: bytes, most: int = MOST_CHARACTERS, memory: int | None = None) -> Result:
    (folder / "input").write_bytes(data)

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    done = subprocess.run(
        [*COMMAND, kind, str(most)],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
        timeout=100,
        preexec_fn=None if memory is None else bound,
    )
    return Result(folder, done)


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("text", b"plain \xc3\xa9", "plain é"),
        ("html", PAGE, "T\nHi\nyou\nbye"),
        ("html", b'<meta charset="windows-1252"><p>caf\xe9</p>', "café"),
        ("html", "<p>日本</p>".encode(), "日本"),
        ("html", codecs.BOM_UTF16_LE + "<p>x</p>".encode("utf-16-le"), "x"),
        ("html", b"<p>no end <i>of tags", "no end\nof tags"),
        ("html", b"<b>" * 100_000 + b"deep", "deep"),
        ("docx", word("Hello", "wörld", table=TABLE), "Hello\nwörld\nbay\tstate\n7\tfree"),
        ("docx", word_with(PART, INSIDE.encode()), "in\ta"),
        ("pdf", pdf("Bay 7", "is free"), "Bay 7\n\nis free"),
        ("pdf", encrypted_pdf("open to all", ""), "open to all"),
    ],
)
def test_text_is_found(tmp_path: Path, kind: str, data: bytes, text: str) -> None:
    result = run(tmp_path, kind, data)
    assert (result.status, result.complaint) == (0, b"")
    assert result.outcome == "text"
    assert result.text is not None
    assert result.text.strip() == text


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("text", b""),
        ("text", b" \n\t "),
        ("text", bytes(range(256)) * 4),
        ("html", b""),
        ("html", b"\x89PNG\r\n\x1a\n\0\0\0"),
        ("docx", b""),
        ("docx", b"PK\x03\x04 and nothing more"),
        ("docx", word("x")[:-200]),
        ("docx", word_with(PART, b"<not xml")),
        ("docx", word_with("[Content_Types].xml", b"")),
        ("pdf", b""),
        ("pdf", b"%PDF-1.7\njunk"),
        ("pdf", pdf("x")[:200]),
        ("pdf", pdf("x").replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]").replace(b"5 0 R]", b"2 0 R]")),
        ("pdf", os.urandom(5000)),
        ("pdf", encrypted_pdf("secret", "hush")),
        ("pdf", pdf("x").replace(b"FlateDecode", b"JBIG2Decode")),
        ("unknown", b"caf\xe9"),
    ],
)
def test_what_has_no_text_is_no_fault(tmp_path: Path, kind: str, data: bytes) -> None:
    result = run(tmp_path, kind, data)
    assert (result.status, result.outcome, result.text, result.complaint) == (0, "none", None, b"")


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 5, 50, 60])
def test_tables_in_tables_are_read_once(depth: int, wrapped: bool) -> None:
    began = time.monotonic()
    text = read_docx(io.BytesIO(nested(depth, wrapped and depth < 40)), MOST_CHARACTERS)
    assert time.monotonic() - began < 5
    assert text is not None
    assert sorted(text.split()) == sorted(f"{side}{n};" for side in ("left", "right") for n in range(1, depth + 1))
    if depth == 2:
        assert text == "left1; left2;\tright2; \tright1;\n"


def test_a_row_ends_where_the_text_has_to() -> None:
    cells = "".join(f"<w:tc>{PARAGRAPH % 'x'}</w:tc>" for _ in range(1000))
    data = word_with(
        PART, f"<w:document {W}><w:body><w:tbl><w:tr>{cells}</w:tr></w:tbl></w:body></w:document>".encode()
    )
    assert read_docx(io.BytesIO(data), 5) == "x\tx\tx"
    assert read_docx(io.BytesIO(data), MOST_CHARACTERS) == "\t".join("x" * 1000)


def test_empty_lines_and_cells_have_their_places() -> None:
    empty = f"<w:tc>{PARAGRAPH % ''}</w:tc>"
    row = f"<w:tr>{empty}<w:tc>{PARAGRAPH % 'a'}{PARAGRAPH % 'b'}</w:tc>{empty}<w:tc>{PARAGRAPH % 'c'}</w:tc></w:tr>"
    box = "<w:p><w:r><w:t>in</w:t><w:pict><w:p><w:r><w:t>box</w:t></w:r></w:p></w:pict></w:r></w:p>"
    body = f"{PARAGRAPH % '1'}{PARAGRAPH % ''}{PARAGRAPH % '2'}<w:tbl>{row}</w:tbl>{box}"
    data = word_with(PART, f"<w:document {W}><w:body>{body}</w:body></w:document>".encode())
    assert read_docx(io.BytesIO(data), MOST_CHARACTERS) == "1\n\n2\n\ta b\t\tc\ninbox"


def entities() -> bytes:
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return (
        f'<!DOCTYPE x [<!ENTITY l0 "ha">{levels}]><w:document {W}><w:body><w:p><w:r><w:t>&l9;</w:t></w:r></w:p>'
        "</w:body></w:document>"
    ).encode()


def test_bombs(tmp_path: Path) -> None:
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(10_001):
            archive.writestr(str(number), "")
    bombs = [
        ("docx", word_with("word/media/big.bin", bytes(70 * 1024 * 1024))),
        ("docx", many.getvalue()),
        ("pdf", pdf_bomb()),
    ]
    for number, (kind, data) in enumerate(bombs):
        folder = tmp_path / str(number)
        folder.mkdir()
        result = run(folder, kind, data)
        assert (result.status, result.outcome, result.text) == (0, "bomb", None), number


def test_entities_do_not_explode(tmp_path: Path) -> None:
    result = run(tmp_path, "docx", word_with(PART, entities()), memory=512 * 1024 * 1024)
    assert result.status == 0
    assert result.outcome in ("none", "text")
    assert len(result.text or "") < 100


def test_too_little_memory_is_said(tmp_path: Path) -> None:
    data = b"<i>x</i>" * 500_000
    assert run(tmp_path, "html", data, memory=250 * 1024 * 1024).outcome == "memory"


def test_progress_is_told_page_by_page(tmp_path: Path) -> None:
    result = run(tmp_path, "pdf", pdf(*(f"page {number}" for number in range(4))))
    assert result.said == [b"25", b"50", b"75", b"100"]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("text", "é".encode() * 3000),
        ("unknown", "日".encode() * 3000),
        ("html", b"<p>" + b"x" * 3000),
        ("docx", word("x" * 900, *["y" * 90] * 20)),
        ("pdf", pdf(*["z" * 90] * 20)),
    ],
)
def test_text_is_bounded(tmp_path: Path, kind: str, data: bytes) -> None:
    result = run(tmp_path, kind, data, most=1000)
    assert result.outcome == "text"
    assert result.text is not None
    assert len(result.text) == 1000


def test_what_is_there_is_not_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "text").symlink_to(victim)
    assert run(folder, "text", b"evil").status != 0
    assert victim.read_text() == "mine"


def test_an_unknown_kind_ends_it(tmp_path: Path) -> None:
    result = run(tmp_path, "exe", b"x")
    assert result.status == 1
    assert b"unknown kind 'exe'" in result.complaint


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (codecs.BOM_UTF8 + b"x", "x"),
        (codecs.BOM_UTF16_LE + "é".encode("utf-16-le"), "é"),
        (codecs.BOM_UTF16_BE + "é".encode("utf-16-be"), "é"),
        (codecs.BOM_UTF32_LE + "é".encode("utf-32-le"), "é"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8", "\ufffd"),
        (b"caf\xe9 au lait", "caf\ufffd au lait"),
        (b"\x1b[31mred\x1b[0m\r\n", "\x1b[31mred\x1b[0m\r\n"),
        (b"caf\xe9", "caf\ufffd"),
        ("é".encode() * 2001, "é" * 1000),
        (b"a\0b", None),
        (b"\x01\x02\x03text", None),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", None),
        (b"", ""),
    ],
)
def test_text_is_decoded_leniently(data: bytes, text: str | None) -> None:
    assert read_text(io.BytesIO(data), 1000) == text


def test_what_is_unknown_has_to_be_text_without_doubt() -> None:
    assert read_unknown(io.BytesIO("all:\n\tmake é\n".encode()), 1000) == "all:\n\tmake é\n"
    assert read_unknown(io.BytesIO(codecs.BOM_UTF8 + b"x"), 1000) == "x"
    assert read_unknown(io.BytesIO(b"caf\xe9"), 1000) is None
    assert read_unknown(io.BytesIO(b"a\0b"), 1000) is None
    assert not is_binary(b"")


def test_the_reader_is_found_without_the_folder_it_runs_in(tmp_path: Path) -> None:
    """In its folder lies what an attacker has put there, if anything."""
    for name in ("json.py", "os.py", "pypdf.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('taken over')")
    assert run(tmp_path, "pdf", pdf("x")).text == "x"
    assert COMMAND[0] == sys.executable
