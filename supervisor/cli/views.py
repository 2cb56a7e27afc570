"""How a chat shows what an agent says: to a person at a terminal, into a pipe, as JSON."""

import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from supervisor.cli import output
from supervisor.cli.summary import Summary, as_text, line_of

if TYPE_CHECKING:
    from rich.status import Status

Event = dict[str, Any]

DIM: Final = "2"
RED: Final = "31"

# What could steer a terminal, or make a text look like another one: the control characters but tab and line feed, line
# separators, what embeds, overrides or isolates a direction of writing, and halves of surrogate pairs. Joiners, marks
# and spaces of all scripts stay, and code points that this Python does not know yet: letters and emoji need them.
_STEERING: Final = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """A text that shows what could steer a terminal, as a backslash and a number, instead of doing it."""
    return _STEERING.sub(lambda match: repr(match[0])[1:-1], text.replace("\r\n", "\n"))


def in_one_line(text: str) -> str:
    """A visible text without line ends."""
    return visible(text).replace("\n", " ").replace("\t", " ")


class View(Protocol):
    """Where the events of turns go. For each turn: `begin`, `show` for each event, `end`."""

    def begin(self) -> None:
        """A turn is asked."""

    def show(self, event: Event) -> None:
        """One event of it."""

    def end(self) -> None:
        """Nothing more of it comes, whether it ended well or not."""


class JsonView:
    """Every event as one line of JSON."""

    def begin(self) -> None:
        """Nothing to show."""

    def show(self, event: Event) -> None:
        """The event, at once."""
        output.write_json(event)

    def end(self) -> None:
        """Nothing to show."""


class TextView:
    """The answers alone on stdout: as they are into a pipe, `visible` to a terminal. `verbose`: on stderr the rest."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._seen = sys.stdout.isatty()  # together with stderr, most likely
        self._paper = Paper(visible if self._seen else str)
        self._summary = Summary()

    def begin(self) -> None:
        """Forget the turn before."""
        self._summary = Summary()

    def show(self, event: Event) -> None:
        """What belongs to the answer, at once."""
        if piece := self._summary.answer(event):
            if event["type"] == "structured":
                self._paper.finish_line()
            self._paper.write(piece)
        elif self._verbose and (line := line_of(event)):
            if self._seen:
                self._paper.finish_line()
            print(in_one_line(line), file=sys.stderr)

    def end(self) -> None:
        """End the answer's last line, and tell the rest."""
        self._paper.finish_line()
        closing = self._summary.sources() + self._summary.costs() if self._verbose else []
        for line in self._summary.losses() + closing:
            print(in_one_line(line), file=sys.stderr)


class TerminalView:
    """For a person: the answer as it comes, all else dim, and something that turns while there is nothing to see."""

    def __init__(self, *, verbose: bool) -> None:
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it

        self._verbose = verbose
        self._console = Console(highlight=False)
        self.plain = bool(os.environ.get("NO_COLOR")) or self._console.is_dumb_terminal
        self._spinner: Status | None = None
        self._paper = Paper(visible)
        self._summary = Summary(indent=2)
        self._thinking = False

    def styled(self, text: str, style: str) -> str:
        """The text in a style of ECMA-48, or plain where styles are not wanted."""
        return text if self.plain or not text else f"\x1b[{style}m{text}\x1b[0m"

    def begin(self) -> None:
        """Show that something is waited for."""
        self._summary, self._thinking = Summary(indent=2), False
        self._wait("starting")

    def show(self, event: Event) -> None:
        """One event, as it comes."""
        if event["type"] == "turn":
            self._wait("thinking")
        elif event["type"] == "thought":
            self._write(as_text(event.get("text", "")), thought=True)
        elif piece := self._summary.answer(event):
            if event["type"] == "structured":
                self._paper.finish_line()
            self._write(piece, thought=False)
        elif line := line_of(event):
            self.note(line, RED if event.get("failed") else DIM)
            self._wait(f"running {as_text(event.get('name', ''))}" if event["type"] == "tool_call" else "thinking")

    def end(self) -> None:
        """End the answer's last line; then its sources, and what it took."""
        self._rest()
        self._paper.finish_line()
        for line in self._summary.losses():
            self.note(line, RED)
        for line in self._summary.sources() + (self._summary.costs() if self._verbose else []):
            self.note(line)

    def note(self, text: str, style: str = DIM) -> None:
        """One line that is not the agent's answer, cut to the terminal's width."""
        from rich.text import Text  # noqa: PLC0415 - only a terminal needs it

        line = Text(in_one_line(text))
        line.truncate(self._console.width - 1, overflow="ellipsis")
        self.say(line.plain, style)

    def say(self, text: str, style: str = DIM) -> None:
        """Whole lines that are not the agent's answer."""
        self._rest()
        self._paper.finish_line()
        print(self.styled(visible(text), style), flush=True)

    def _write(self, text: str, *, thought: bool) -> None:
        """A piece of the answer, or of a thought; the one begins on another line than the other."""
        self._rest()
        if self._thinking != thought:
            self._paper.finish_line()
            self._thinking = thought
        self._paper.write(text, (lambda piece: self.styled(piece, DIM)) if thought else str)

    def _wait(self, label: str) -> None:
        from rich.text import Text  # noqa: PLC0415 - only a terminal needs it

        if self._console.is_dumb_terminal:
            return
        shown = Text(in_one_line(label), style="" if self.plain else "dim", no_wrap=True, overflow="ellipsis")
        if self._spinner is not None:
            self._spinner.update(shown)
            return
        self._paper.finish_line()
        self._spinner = self._console.status(shown, spinner="dots" if self._console.encoding == "utf-8" else "line")
        self._spinner.start()

    def _rest(self) -> None:
        if self._spinner is not None:
            spinner, self._spinner = self._spinner, None
            spinner.stop()


class Paper:
    """Stdout, and whether its last line has ended; what is written goes through `clean` first."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean = clean
        self._unfinished = False

    def write(self, text: str, styled: Callable[[str], str] = str) -> None:
        """A piece of text, at once."""
        if text:
            sys.stdout.write(styled(self._clean(text)))
            sys.stdout.flush()
            self._unfinished = not text.endswith("\n")

    def finish_line(self) -> None:
        """Go on with a new line."""
        if self._unfinished:
            self._unfinished = False
            print(flush=True)
