"""How many values a JSON text has, told before it is parsed: the parser holds up everybody until it is done. Pure.

A text of a few megabytes is parsed in milliseconds when it is mostly strings, and in a second when it is mostly
brackets. What counts is outside of strings. It is looked for window by window, so that others get their turn.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from supervisor.causes import Cause, Refusal

WINDOW: Final = 64 * 1024

# What there may be of it, in words, and the marks that tell. A list's items cost a tenth of the others.
BOUNDS: Final[Mapping[str, tuple[int, tuple[bytes, ...]]]] = {
    "objects, lists and fields": (100_000, (b"{", b"[", b":")),
    "values": (1_000_000, (b",",)),
}


def check_density(data: bytes) -> None:
    """Raise Refusal(BODY_INVALID) for a JSON text with more values than BOUNDS allow."""
    for name, (most, marks) in BOUNDS.items():
        if sum(map(data.count, marks)) > most and sum(sum(map(bare.count, marks)) for bare in _bare(data)) > most:
            raise Refusal(Cause.BODY_INVALID, f"the body has more than {most} {name}; send large data as one text")


def _bare(data: bytes) -> Iterator[bytes]:
    """The text without its strings, in pieces."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    inside = 0
    for start in range(0, len(data), WINDOW):
        pieces = data[start : start + WINDOW].split(b'"')
        yield b"".join(pieces[inside::2])
        inside = (inside + len(pieces) - 1) % 2
