r"""Halves of characters in JSON: ``\ud83d`` without its other half, which UTF-8 cannot hold. Pure.

Some clients send them where they cut a text. They are looked for without a step in Python for each escape, of which a
body may have millions, and window by window, so that others get their turn.
"""

import re
from typing import Final

from supervisor.causes import Cause, Refusal

WINDOW: Final = 64 * 1024
MOST: Final = 10_000  # in one body: each one costs a step
ESCAPE: Final = 6  # bytes of an escape: a half is known by its neighbour on either side

_ANY: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF: Final = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
# In the place of a backslash that is escaped, so that it begins no escape; no JSON has a NUL.
_HIDDEN: Final = b"\0\0"
_MARK: Final = rb"\ufffd"


def mended(data: bytes) -> bytes:
    """JSON with U+FFFD in the place of each half. Raises Refusal(BODY_INVALID) for more than MOST of them."""
    if not _ANY.search(data) or b"\0" in data:  # the latter is no JSON, and refused as such
        return data
    plain = data.replace(rb"\\", _HIDDEN)
    pieces: list[bytes] = []
    done = 0
    for start in range(0, len(plain), WINDOW):
        for half in _HALF.finditer(plain, start, start + WINDOW + 2 * ESCAPE):
            if half.start() >= start + WINDOW:
                break
            pieces += (plain[done : half.start()], _MARK)
            done = half.end()
            if len(pieces) > 2 * MOST:
                raise Refusal(Cause.BODY_INVALID, f"the body has more than {MOST} halves of characters")
    if not pieces:
        return data
    return b"".join((*pieces, plain[done:])).replace(_HIDDEN, rb"\\")
