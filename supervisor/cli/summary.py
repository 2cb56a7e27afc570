"""What a turn's events come to for a reader: pieces of the answer, lines beside it, what is told at the end. Pure."""

import json
from collections.abc import Mapping
from typing import Any, Final

Event = dict[str, Any]

MAX_SOURCES: Final = 100
MAX_VALUE: Final = 4096  # characters of a tool's argument or output that are looked at for its line
SLOW_MS: Final = 100  # a tool that takes less is not worth a time
_TOKENS: Final = (("input_tokens", "tokens in"), ("output_tokens", "tokens out"), ("total_tokens", "in all"))


class Summary:
    """Of one turn; values that are no text are shown as JSON, indented if wanted."""

    def __init__(self, *, indent: int | None = None) -> None:
        self._indent = indent
        self._answered = False
        self._sources: list[Event] = []
        self._more_sources = 0
        self._usage: Event = {}
        self._last: Event = {}

    def answer(self, event: Event) -> str:
        """The piece of the answer this event is, empty if it is none; what is told later is kept."""
        piece = ""
        match event["type"]:
            case "text":
                piece = as_text(event.get("text", ""))
            case "structured":
                piece = as_text(event.get("value"), self._indent) + "\n"
            case "usage":
                self._usage = event
            case "source" if len(self._sources) < MAX_SOURCES:
                self._sources.append(event)
            case "source":
                self._more_sources += 1
            case "final" | "error":
                self._last = event
                # A value that was streamed before is the same answer once more.
                if not self._answered and event.get("value") is not None:
                    piece = as_text(event["value"], self._indent)
        self._answered = self._answered or bool(piece)
        return piece

    def sources(self) -> list[str]:
        """A line for each source."""
        lines = [f"[{number}] {_described(source)}" for number, source in enumerate(self._sources, 1)]
        return [*lines, f"... and {self._more_sources} more sources"] if self._more_sources else lines

    def costs(self) -> list[str]:
        """The model, the tokens and the time, as far as they are known."""
        model = [as_text(self._usage["model"])] if self._usage.get("model") else []
        tokens = [f"{self._usage[key]} {word}" for key, word in _TOKENS if isinstance(self._usage.get(key), int)]
        ms = self._last.get("ms")
        time = [f"{ms / 1000:.2f} s"] if isinstance(ms, int | float) else []
        return [", ".join(parts)] if (parts := model + tokens + time) else []

    def losses(self) -> list[str]:
        """What could not be shown."""
        lost = self._last.get("lost")
        return [f"{lost} events of this turn were lost; the server's log says why"] if lost else []


def line_of(event: Event) -> str:
    """A tool's call or its result in a line; empty for all else."""
    name = as_text(event.get("name", ""))
    match event["type"]:
        case "tool_call":
            given = event.get("arguments")
            arguments = (
                [f"{k}={_short(v)}" for k, v in given.items()] if isinstance(given, Mapping) else [_short(given)]
            )
            return f"-> {name}({', '.join(arguments)})"
        case "tool_result":
            failed = "failed: " if event.get("failed") else ""
            ms = event.get("ms")
            time = f" ({ms / 1000:.1f} s)" if isinstance(ms, int | float) and ms >= SLOW_MS else ""
            return f"<- {name}: {failed}{_short(event.get('output'))}{time}"
    return ""


def as_text(value: Any, indent: int | None = None) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=indent)


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:MAX_VALUE]


def _described(source: Event) -> str:
    names = [as_text(source[key]) for key in ("title", "filename", "source") if source.get(key)]
    return " - ".join(dict.fromkeys(names)) or as_text(source.get("text", ""))
