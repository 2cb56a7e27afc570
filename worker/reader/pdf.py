"""The text of PDF files, page by page."""

import logging
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Final

from pypdf import PdfReader
from pypdf.errors import LimitReachedError

from worker.reader.faults import BombError

if TYPE_CHECKING:
    from types import TracebackType

MOST_PAGES: Final = 2000
FILTERS: Final = "pypdf.filters"


def read_pdf(file: IO[bytes], most: int, told: Callable[[int], None]) -> str | None:
    """At most `most` characters of the first pages, None for what is damaged or encrypted.

    `told` hears how much was read, in percent. Raises BombError, and MemoryError.
    """
    logging.disable()  # pypdf complains of what is damaged
    pieces: list[str] = []
    left = most
    try:
        reader = PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            return None
        pages = min(len(reader.pages), MOST_PAGES)
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes its parser raise
        _check(error)
        return None
    for number in range(pages):
        try:
            text = reader.pages[number].extract_text().strip()
        except Exception as error:  # noqa: BLE001 - as above
            _check(error)
            text = ""  # the other pages may be well
        if text:
            pieces.append(text[:left])
            left -= len(text) + 2
        if left <= 0:
            break
        told((number + 1) * 100 // pages)
    return "\n\n".join(pieces)[:most]


def _check(error: Exception) -> None:
    """Let nothing pass but damage: raises MemoryError, and BombError when too much came out of a filter."""
    if isinstance(error, MemoryError):
        raise error
    place: TracebackType | None = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if isinstance(error, LimitReachedError) and place is not None and place.tb_frame.f_globals["__name__"] == FILTERS:
        raise BombError from error
