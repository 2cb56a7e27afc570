"""How a chat shows what an agent says: to a person at a terminal, into a pipe, as JSON."""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from supervisor.cli import output
from supervisor.cli.errors import printable

if TYPE_CHECKING:
    from rich.status import Status

Event = dict[str, Any]

DIM: Final = "2"
BOLD: Final = "1"
RED: Final = "31"

MAX_LISTED: Final = 100  # sources
MAX_VALUE: Final = 4096  # characters of a tool's argument or output that are looked at for its line

# What could steer a terminal, or make a text look like another one: the control characters but tab and line feed, line
# separators, what embeds, overrides or isolates a direction of writing, and halves of surrogate pairs. Joiners, marks and
# spaces of all scripts stay, and code points that this Python does not know yet: letters and emoji need them.
_STEERING: Final = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """A text that shows what could steer a terminal instead of doing it: ``\\x1b`` for an escape."""
    return _STEERING.sub(lambda match: repr(match[0])[1:-1], text.replace("\r\n", "\n"))


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
    """The answers alone on stdout; all else, when wanted, on stderr. As it is into a pipe, made visible to a terminal."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._clean: Callable[[str], str] = visible if sys.stdout.isatty() else str
        self._summary = Summary()

    def begin(self) -> None:
        """Forget the turn before."""
        self._summary = Summary()

    def show(self, event: Event) -> None:
        """What belongs to the answer, at once."""
        if piece := self._summary.answer(event):
            sys.stdout.write(self._clean(piece))
            sys.stdout.flush()
        elif self._verbose and (line := line_of(event)):
            print(visible(line), file=sys.stderr)

    def end(self) -> None:
        """End the answer's last line, and tell the rest."""
        if self._summary.unfinished:
            print(flush=True)
        for line in self._summary.closing(verbose=self._verbose) if self._verbose else self._summary.losses():
            print(visible(line), file=sys.stderr)


class TerminalView:
    """For a person: the answer as it comes, all else dim, and something that turns while there is nothing to see."""

    def __init__(self, *, verbose: bool) -> None:
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs it

        self._verbose = verbose
        self._console = Console(highlight=False)
        self._plain = bool(os.environ.get("NO_COLOR")) or self._console.is_dumb_terminal
        self._spinner: Status | None = None
        self._summary = Summary()
        self._thinking = False

    def styled(self, text: str, style: str) -> str:
        """The text in a style of ECMA-48, or plain where styles are not wanted."""
        return text if self._plain or not text else f"\x1b[{style}m{text}\x1b[0m"

    def begin(self) -> None:
        """Show that something is waited for."""
        self._summary, self._thinking = Summary(), False
        self._wait("starting")

    def show(self, event: Event) -> None:
        """One event, as it comes."""
        if event["type"] == "turn":
            self._wait("thinking")
        elif event["type"] == "thought":
            self._write(visible(as_text(event.get("text"))), thought=True)
        elif piece := self._summary.answer(event):
            self._write(visible(piece), thought=False)
        elif line := line_of(event):
            self.note(line, RED if event.get("failed") else DIM)
            self._wait("thinking")

    def end(self) -> None:
        """End the answer's last line; then its sources, and what it took."""
        self._finish_line()
        for line in self._summary.losses():
            self.note(line, RED)
        for line in self._summary.closing(verbose=self._verbose):
            self.note(line)

    def note(self, text: str, style: str = DIM) -> None:
        """One line that is not the agent's answer, cut to the terminal's width."""
        self._finish_line()
        print(self.styled(self._cut(printable(text)), style), flush=True)

    def say(self, text: str) -> None:
        """Whole dim lines of the chat itself."""
        self._finish_line()
        print(self.styled(text, DIM), flush=True)

    def _write(self, text: str, *, thought: bool) -> None:
        """A piece of the answer or of a thought; each begins on a line of its own."""
        if not text:
            return
        if self._thinking != thought:
            self._finish_line()
            self._thinking = thought
        self._rest()
        self._summary.unfinished = not text.endswith("\n")
        sys.stdout.write(self.styled(text, DIM) if thought else text)
        sys.stdout.flush()

    def _finish_line(self) -> None:
        self._rest()
        if self._summary.unfinished:
            self._summary.unfinished = False
            print(flush=True)

    def _cut(self, text: str) -> str:
        from rich.text import Text  # noqa: PLC0415 - only a terminal needs it

        line = Text(text)
        line.truncate(self._console.width - 1, overflow="ellipsis")
        return line.plain

    def _wait(self, label: str) -> None:
        if self._console.is_dumb_terminal or self._summary.unfinished:
            return
        if self._spinner is None:
            spinner = "dots" if self._console.encoding.startswith("utf") else "line"
            self._spinner = self._console.status(self._faint(label), spinner=spinner)
            self._spinner.start()
        else:
            self._spinner.update(self._faint(label))

    def _faint(self, label: str) -> str:
        return label if self._plain else f"[dim]{label}[/dim]"

    def _rest(self) -> None:
        if self._spinner is not None:
            spinner, self._spinner = self._spinner, None
            spinner.stop()


class Summary:
    """What is known of a turn: whether its text ended its line, and what is told at its end."""

    def __init__(self) -> None:
        self.unfinished = False
        self._answered = False
        self._sources: list[Event] = []
        self._more_sources = 0
        self._usage: Event = {}
        self._final: Event = {}

    def answer(self, event: Event) -> str:
        """The piece of the answer this event is, empty if it is none; what is told later is kept."""
        piece = ""
        if event["type"] == "text":
            piece = as_text(event.get("text"))
        elif event["type"] == "structured":
            piece = ("\n" if self.unfinished else "") + as_text(event.get("value"), indent=2) + "\n"
        elif event["type"] == "final" and not self._answered and event.get("value") is not None:
            piece = as_text(event["value"], indent=2)
        self._keep(event)
        if piece:
            self._answered = True
            self.unfinished = not piece.endswith("\n")
        return piece

    def _keep(self, event: Event) -> None:
        if event["type"] == "usage":
            self._usage = event
        elif event["type"] in ("final", "error"):
            self._final = event
        elif event["type"] == "source" and len(self._sources) < MAX_LISTED:
            self._sources.append(event)
        elif event["type"] == "source":
            self._more_sources += 1

    def losses(self) -> list[str]:
        """What could not be shown."""
        lost = self._final.get("lost")
        return [f"{lost} events of this answer were lost; the channel's log says more"] if lost else []

    def closing(self, *, verbose: bool) -> list[str]:
        """The sources; with `verbose` also what the turn took."""
        lines = [f"[{n}] {_described(source)}" for n, source in enumerate(self._sources, 1)]
        if self._more_sources:
            lines.append(f"... and {self._more_sources} more sources")
        if verbose and (took := _took(self._usage, self._final)):
            lines.append(took)
        return lines


def line_of(event: Event) -> str:
    """A tool's call or result, or a thought, in a line; empty for all else."""
    name = as_text(event.get("name"))
    match event["type"]:
        case "thought":
            return as_text(event.get("text"))
        case "tool_call":
            given = event.get("arguments")
            if isinstance(given, Mapping):
                return f"-> {name}({', '.join(f'{key}={_short(value)}' for key, value in given.items())})"
            return f"-> {name}({_short(given)})"
        case "tool_result":
            took = event.get("ms")
            how = "failed: " if event.get("failed") else ""
            time = f" ({took / 1000:.1f} s)" if isinstance(took, int | float) and took >= 100 else ""
            return f"<- {name}: {how}{_short(event.get('output'))}{time}"
    return ""


def as_text(value: Any, indent: int | None = None) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=indent)


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:MAX_VALUE]


def _described(source: Event) -> str:
    names = [text for key in ("title", "filename", "source") if (text := as_text(source.get(key) or ""))]
    return " - ".join(dict.fromkeys(names)) or as_text(source.get("text") or "")


def _took(usage: Event, final: Event) -> str:
    counted = [f"{usage[key]} {word}" for key, word in _TOKENS if isinstance(usage.get(key), int)]
    model = [as_text(usage["model"])] if usage.get("model") else []
    ms = final.get("ms")
    time = [f"{ms / 1000:.2f} s"] if isinstance(ms, int | float) else []
    return ", ".join(model + counted + time)


_TOKENS: Final = (("input_tokens", "tokens in"), ("output_tokens", "tokens out"), ("total_tokens", "in all"))
