"""The prompt of a chat: line editing by readline, and the history of what was asked, kept for the next chat."""

import contextlib
import json
import os
import readline
import signal
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MAX_ENTRIES: Final = 1000
MAX_ENTRY: Final = 10_000  # characters; longer ones are not kept
MAX_BYTES: Final = 1024 * 1024


class History:
    """A file only its owner can read, one JSON string per line; `problem` says why it cannot be used, if so."""

    def __init__(self, path: Path | None) -> None:
        """Without a path nothing is kept beyond this chat."""
        self.problem = ""
        self._path = path
        self._last = ""

    def load(self) -> list[str]:
        """The entries of earlier chats, oldest first; a file that has grown over its bounds is cut."""
        if self._path is None:
            return []
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            data, grown = _read(self._path)
            lines = data.splitlines(keepends=True)
            if grown or len(lines) > MAX_ENTRIES:
                lines = lines[-MAX_ENTRIES:]
                _replace(self._path, b"".join(lines))
        except OSError as error:
            self._give_up(error)
            return []
        return [entry for line in lines if (entry := _entry(line))]

    def add(self, entry: str) -> None:
        """Remember what was asked."""
        if entry == self._last or len(entry) > MAX_ENTRY:
            return
        self._last = entry
        readline.add_history(entry)
        if self._path is None:
            return
        try:
            with os.fdopen(_open(self._path, os.O_WRONLY | os.O_APPEND), "ab") as file:
                file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.problem = f"no history is kept: {error}"
        self._path = None


class LineDropped(Exception):  # noqa: N818 - what a person does is no error
    """Ctrl-C at the prompt; `typed` is what stood there."""

    def __init__(self, typed: str) -> None:
        super().__init__(typed)
        self.typed = typed


class _Resumed(LineDropped):
    """The program was stopped at the prompt, and goes on: meanwhile the shell had the terminal its own way."""


class Prompt:
    """Asks for one line after the other."""

    def __init__(self, sign: str, history: History, *, bold: bool) -> None:
        # Readline is told what takes no place on the screen.
        self._sign = f"\1\x1b[1m\2{sign}\1\x1b[0m\2" if bold else sign
        self._history = history
        readline.set_auto_history(False)
        readline.clear_history()
        for entry in history.load():
            readline.add_history(entry)

    def ask(self) -> str:
        """The next line. Raises EOFError for Ctrl-D, LineDropped for Ctrl-C."""
        typed = ""
        while True:
            try:
                with _on(signal.SIGINT, LineDropped), _on(signal.SIGCONT, _Resumed), _typed_already(typed):
                    line = input(self._sign)
            except _Resumed as resumed:
                typed = resumed.typed
            else:
                if line.strip():
                    self._history.add(line)
                return line


@contextmanager
def _on(number: signal.Signals, dropped: type[LineDropped]) -> Iterator[None]:
    """Meanwhile this signal ends the input; what is typed is lost a moment later, so it is taken along."""

    def handler(*_: object) -> None:
        raise dropped(readline.get_line_buffer())

    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def _typed_already(text: str) -> Iterator[None]:
    """Meanwhile an input begins with this text."""

    def insert() -> None:
        readline.insert_text(text)
        readline.redisplay()

    readline.set_pre_input_hook(insert if text else None)
    try:
        yield
    finally:
        readline.set_pre_input_hook(None)


def history_file(environ: Mapping[str, str]) -> Path | None:
    """Where the history is: below XDG_STATE_HOME, by the XDG base directory specification; None without any home."""
    base = environ.get("XDG_STATE_HOME", "")
    with contextlib.suppress(RuntimeError):  # nobody knows this user's home
        return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "agentd" / "chat_history"
    return None


def _open(path: Path, flags: int) -> int:
    """The history's file, made if there is none. Raises OSError for what is no file."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a file")
    if stat.S_IMODE(mode) & 0o077:
        os.fchmod(descriptor, 0o600)
    return descriptor


def _read(path: Path) -> tuple[bytes, bool]:
    """At most the last MAX_BYTES in whole lines, and whether there is more."""
    with os.fdopen(_open(path, os.O_RDWR), "rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - MAX_BYTES)
        file.seek(start)
        if start:
            file.readline()
        return file.read(MAX_BYTES), start > 0


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(_open(new, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(data)
    new.replace(path)


def _entry(line: bytes) -> str:
    """The entry of a line, empty for what is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return entry if isinstance(entry, str) and "\0" not in entry and _encodable(entry) else ""


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
