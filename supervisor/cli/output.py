"""How commands show what the server said: tables for people, JSON for programs."""

import codecs
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from supervisor.cli.errors import printable

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_TIMES: Final = (((86_400, "d"), (3_600, "h")), ((3_600, "h"), (60, "m")), ((60, "m"), (1, "s")))
_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red", "slow": "yellow", "stuck": "bold red"}


def write_json(value: Any) -> None:
    """The value on one line of stdout, at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def write_line(text: str) -> None:
    """One line of text from the server on stdout."""
    print(printable(text), flush=True)


def write_output(chunks: Iterable[bytes]) -> None:
    """What a worker wrote, at once: as it is into a pipe, without what would steer it to a terminal."""
    for chunk in _shown(chunks) if sys.stdout.isatty() else chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _shown(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for text in codecs.iterdecode(iter(chunks), "utf-8", "backslashreplace"):
        yield printable(text, keep="\n\t").encode(sys.stdout.encoding, "backslashreplace")


def write_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout; the columns named in `right` are numbers. Cut to a terminal's width, whole in a pipe."""
    from rich.console import Console  # noqa: PLC0415 - only the commands with a table pay for it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell), style=_STYLES.get(cell, "")) for cell in row))
    Console(width=None if sys.stdout.isatty() else 100_000, highlight=False).print(table)


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units: ``4.2s``, ``1m05s``, ``3h07m``, ``2d04h``."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    unit, below = next(pair for pair in _TIMES if whole >= pair[0][0])
    return f"{whole // unit[0]}{unit[1]}{whole % unit[0] // below[0]:02}{below[1]}"


def size(count: float | None) -> str:
    """Bytes in the largest unit: ``3.2 MiB``."""
    if count is None:
        return "-"
    power = 0
    while count >= 1024 and power < len(_UNITS) - 1:
        count /= 1024
        power += 1
    return f"{count:.{min(power, 1)}f} {_UNITS[power]}"


def text(value: object) -> str:
    """Anything for a cell; ``-`` for what is not known."""
    return "-" if value is None else str(value)
