"""The text of DOCX files: paragraphs as lines, rows of tables as lines with tabs."""

import zipfile
from typing import IO, Any, Final

from docx import Document
from docx.oxml.ns import qn
from lxml import etree  # type: ignore[import-untyped]

from worker.reader.faults import BombError

MOST_UNPACKED: Final = 256 * 1024 * 1024
MOST_PART: Final = 64 * 1024 * 1024  # of one part; a text of that size is a library
MOST_PARTS: Final = 10_000

_TEXT, _TAB, _BREAK, _RETURN = (qn(f"w:{name}") for name in ("t", "tab", "br", "cr"))
_PARAGRAPH, _ROW, _CELL = (qn(f"w:{name}") for name in ("p", "tr", "tc"))
_BETWEEN: Final = {_ROW: "\t", _CELL: " "}  # their cells, their lines
_SIGNS: Final = {_TAB: "\t", _BREAK: "\n", _RETURN: "\n"}
# The same once more for programs that know less, and what tells how things look.
_LEFT_OUT: Final = frozenset(
    {"{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback", qn("w:pPr"), qn("w:tblPr")}
)


def read_docx(file: IO[bytes], most: int) -> str | None:
    """At most `most` characters, None for what is damaged. Raises BombError, and MemoryError."""
    try:
        check_size(file)
        return _text(Document(file).element.body, most)
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


class _Joined:
    """Pieces of a text, joined by what stands between the items of the innermost list they are in."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.size = 0
        self._lists: list[tuple[str, bool]] = [("\n", False)]  # what is between their items, and whether there are any

    def item(self) -> None:
        """The next item of the innermost list begins."""
        between, there_is_one = self._lists[-1]
        if there_is_one:
            self.add(between)
        self._lists[-1] = (between, True)

    def begin(self, between: str) -> None:
        """The next item is a list itself."""
        self.item()
        self._lists.append((between, False))

    def end(self) -> None:
        """The innermost list is over."""
        self._lists.pop()

    def add(self, piece: str) -> None:
        """More of the item."""
        if piece:
            self.pieces.append(piece)
            self.size += len(piece)


def _text(body: Any, most: int) -> str:
    """The text of a body, at most `most` characters: in one walk and without recursion, however deep tables nest."""
    text = _Joined()
    paragraphs = 0  # that are open; one in another is a box of text, and belongs to its line
    walk: Any = etree.iterwalk(body, events=("start", "end"))
    for event, element in walk:
        tag = element.tag
        begins = event == "start"
        if tag == _PARAGRAPH:
            if begins and not paragraphs:
                text.item()
            paragraphs += 1 if begins else -1
        elif paragraphs:
            if begins:
                text.add((element.text or "") if tag == _TEXT else _SIGNS.get(tag, ""))
        elif tag in _BETWEEN:
            if begins:
                text.begin(_BETWEEN[tag])
            else:
                text.end()
        if begins and tag in _LEFT_OUT:
            walk.skip_subtree()
        if text.size >= most:
            break
    return "".join(text.pieces)[:most]
