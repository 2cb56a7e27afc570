"""JSON behind the ``data:`` of a server-sent event: on one line, whoever looks for line ends. Pure."""

from typing import Final

DONE: Final = b"data: [DONE]\n\n"  # the last event of a stream, in the APIs that have it

# Line ends to clients that split by Unicode's rules; JSON allows them in strings.
LINE_ENDS: Final = (
    ("\u0085".encode(), rb"\u0085"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)


def safe(data: bytes) -> bytes:
    """JSON without characters that somebody takes for the end of a line."""
    if not data.isascii():
        for character, escaped in LINE_ENDS:
            data = data.replace(character, escaped)
    return data
