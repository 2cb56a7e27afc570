"""``python -m worker.reader KIND CHARACTERS``, in the folder where `input` is: leaves `result`, and perhaps `text`.

`result` is JSON, ``{"outcome": "text" | "none" | "bomb" | "memory"}``. On its standard output stand lines of a number
each, how much was read in percent; nothing else.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

INPUT: Final = Path("input")
RESULT: Final = Path("result")
TEXT: Final = Path("text")
KINDS: Final = ("text", "unknown", "html", "docx", "pdf")
NICENESS: Final = 10


def extract(kind: str, most: int, told: Callable[[int], None]) -> str | None:
    """At most `most` characters of the file, None when it has no text. Raises BombError and MemoryError."""
    # Each kind's libraries are loaded when they are needed: they take longer than most files.
    with INPUT.open("rb") as file:
        match kind:
            case "pdf":
                from worker.reader.pdf import read_pdf  # noqa: PLC0415

                return read_pdf(file, most, told)
            case "docx":
                from worker.reader.word import read_docx  # noqa: PLC0415

                return read_docx(file, most)
            case "html":
                from worker.reader.page import read_html  # noqa: PLC0415

                return read_html(file, most)
            case "text":
                from worker.reader.plain import read_text  # noqa: PLC0415

                return read_text(file, most)
            case _:
                from worker.reader.plain import read_unknown  # noqa: PLC0415

                return read_unknown(file, most)


def outcome_of(kind: str, most: int, told: Callable[[int], None]) -> str:
    """Read the file, leave its text, and say how it went."""
    from worker.reader.faults import BombError  # noqa: PLC0415

    try:
        found = extract(kind, most, told)
        if found is None or not found.strip():
            return "none"
        # What is no character, and NUL, which not everybody can store.
        data = found.replace("\0", "\ufffd").encode("utf-8", "replace")
        _write(TEXT, data)
    except BombError:
        return "bomb"
    except MemoryError:
        return "memory"
    return "text"


def silence() -> Callable[[int], None]:
    """Turn away whatever libraries print; the only way to say something is what this returns."""
    out = os.dup(1)
    os.set_blocking(out, False)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    last = 0

    def told(percent: int) -> None:
        nonlocal last
        if percent > last:
            last = percent
            try:
                os.write(out, f"{percent}\n".encode())
            except BlockingIOError:
                return  # nobody listens; the next one tells more

    return told


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def main() -> int:
    """Read the file of this folder; the exit status."""
    kind, most = sys.argv[1], int(sys.argv[2])
    if kind not in KINDS:
        raise SystemExit(f"unknown kind {kind!r}; known are {', '.join(KINDS)}")
    os.nice(NICENESS)
    told = silence()
    _write(RESULT, json.dumps({"outcome": outcome_of(kind, most, told)}).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
