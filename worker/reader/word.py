"""The text of DOCX files: paragraphs as lines, rows of tables as lines with tabs."""

import zipfile
from collections.abc import Iterator
from typing import IO, Any, Final

from docx import Document
from docx.oxml.ns import qn

from worker.reader.faults import BombError

MOST_UNPACKED: Final = 256 * 1024 * 1024
MOST_PART: Final = 64 * 1024 * 1024  # of one part; a text of that size is a library
MOST_PARTS: Final = 10_000

_TEXT, _TAB, _BREAK, _RETURN = (qn(f"w:{name}") for name in ("t", "tab", "br", "cr"))
_PARAGRAPH, _TABLE, _ROW, _CELL = (qn(f"w:{name}") for name in ("p", "tbl", "tr", "tc"))
_SIGNS: Final = {_TAB: "\t", _BREAK: "\n", _RETURN: "\n"}
# The same once more for programs that know less, and what tells how things look.
_LEFT_OUT: Final = frozenset(
    {"{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback", qn("w:pPr"), qn("w:tblPr")}
)


def read_docx(file: IO[bytes], most: int) -> str | None:
    """At most `most` characters, None for what is damaged. Raises BombError, and MemoryError."""
    try:
        check_size(file)
        body: Any = Document(file).element.body
        pieces: list[str] = []
        left = most
        for line in _lines(body):
            pieces.append(line[:left])
            left -= len(line) + 1
            if left <= 0:
                break
        return "\n".join(pieces)[:most]
    except (BombError, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - whatever a damaged file makes three libraries raise
        return None


def check_size(file: IO[bytes]) -> None:
    """Raises BombError when the archive unpacks to too much by its own account, which binds those who read it."""
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
    sizes = [part.file_size for part in parts]
    if len(sizes) > MOST_PARTS or sum(sizes) > MOST_UNPACKED or max(sizes, default=0) > MOST_PART:
        raise BombError
    file.seek(0)


def _lines(element: Any) -> Iterator[str]:
    for child in element:
        if child.tag == _PARAGRAPH:
            yield "".join(_words(child))
        elif child.tag == _TABLE:
            for row in child.iter(_ROW):
                yield "\t".join(" ".join(_lines(cell)) for cell in row.iter(_CELL))
        elif child.tag not in _LEFT_OUT:
            yield from _lines(child)


def _words(element: Any) -> Iterator[str]:
    for child in element:
        if child.tag == _TEXT:
            yield child.text or ""
        elif child.tag in _SIGNS:
            yield _SIGNS[child.tag]
        elif child.tag not in _LEFT_OUT:
            yield from _words(child)
