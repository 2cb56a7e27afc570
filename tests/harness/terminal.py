"""A command in a terminal of its own: what is typed reaches it as from a keyboard, what it shows can be waited for."""

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Self

SECONDS = 30.0  # a bound on every wait, not a wait
AGAIN_SECONDS = 1.0  # after which somebody tries again

# Makes the terminal the session's own, so that Ctrl-C is a signal to all in it.
OWN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"

CTRL_C, CTRL_D, UP, ENTER = "\x03", "\x04", "\x1b[A", "\r"


class Terminal:
    """Enter it to start the command; what it showed is `shown`, and `until` waits for more of it."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, columns: int = 100) -> None:
        self.shown = ""
        self._command = [sys.executable, "-S", "-c", OWN, *command]
        self._environment = {"TERM": "xterm-256color", "INPUTRC": os.devnull, **environment}
        self._folder = folder
        self._columns = columns
        self._seen = 0  # how much of it was waited for
        self._data = b""
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, self._columns, 0, 0))
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=self._folder,
            env=self._environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)  # Popen's would take the status of one that has ended
            await self.process.wait()

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._ours, text.encode())

    def resume(self) -> None:
        """Be the shell that has the terminal while the command is stopped, and lets the command go on."""
        modes = termios.tcgetattr(self._ours)
        modes[3] |= termios.ICANON | termios.ECHO
        termios.tcsetattr(self._ours, termios.TCSANOW, modes)
        os.kill(self.process.pid, signal.SIGCONT)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.type(CTRL_C)

    async def until(self, text: str) -> str:
        """Wait for this text behind what was waited for before; all between, with it."""
        try:
            async with asyncio.timeout(SECONDS):
                while (at := self.shown.find(text, self._seen)) < 0:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {text!r} in {self.shown[self._seen :]!r}") from None
        start, self._seen = self._seen, at + len(text)
        return self.shown[start : self._seen]

    async def repeat_until(self, act: Callable[[], None], text: str) -> str:
        """Do this, which sends a signal, until this text is there: see `until`.

        Python sees a signal that comes just before it begins to wait only when it has waited; people try again.
        """
        trying = asyncio.create_task(self._again_and_again(act))
        try:
            return await self.until(text)
        finally:
            trying.cancel()
            await asyncio.wait({trying})

    @staticmethod
    async def _again_and_again(act: Callable[[], None]) -> None:
        while True:
            act()
            await asyncio.sleep(AGAIN_SECONDS)

    async def end(self) -> int:
        """Wait for the command's end; its exit status."""
        async with asyncio.timeout(SECONDS):
            return await self.process.wait()

    def _read(self) -> None:
        try:
            data = os.read(self._ours, 1 << 16)
        except OSError:  # nobody has the other end any more
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._ours)
        self._data += data
        self.shown = self._data.decode(errors="ignore")
        self._news.set()
