"""The server's own log: structlog, JSON when nobody watches, colours when somebody does.

A log call never waits and never fails: lines go through a bounded queue to a thread, and when nobody reads them they
are dropped and counted.
"""

import atexit
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from supervisor.journald import Journal, leads_to_journal
from supervisor.sinks import Descriptor, Sink

LEVELS: Final = logging.getLevelNamesMapping()
PENDING_BYTES: Final = 1024 * 1024
CLOSE_SECONDS: Final = 1.0
MOST_SAID: Final = 500

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters (C0, DEL, C1) and lone surrogates escaped: it cannot steer a terminal."""
    return text if text.isprintable() else _CONTROL.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class LineWriter:
    """Writes lines to a sink from a thread of its own. `start` before use, `close` at the end.

    At most `most` bytes wait, and as many again are being written. What comes while they do is dropped; `notice` makes
    the line that tells how many lines are missing at this place. A reader that is gone is nobody's failure.
    """

    def __init__(self, sink: Sink, notice: Callable[[int], str], most: int = PENDING_BYTES) -> None:
        self._sink = sink
        self._notice = notice
        self._most = most
        self._changed = threading.Condition()  # re-entrant: a finalizer may log in the midst of a log call
        self._lines: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="server log", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def write(self, line: str) -> None:
        """Write a line later; from any thread. Never waits, never raises."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._changed:
            if self._dropped or self._size + len(data) > self._most:
                self._dropped += 1
            else:
                self._lines.append(data)
                self._size += len(data)
            self._changed.notify()

    # What structlog calls, one for each level.
    debug = info = warning = error = critical = write

    def close(self) -> None:
        """Write what waits, then end the thread; bounded by CLOSE_SECONDS, for the reader may have stopped reading."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        lost = 0  # in writes that failed, not told of yet
        while True:
            lines, dropped = self._take()
            if not lines and not dropped:
                return
            before, behind = ([f"{self._notice(count)}\n".encode()] if count else [] for count in (lost, dropped))
            written = self._sink.put([*before, *lines, *behind])
            lost = 0 if written else lost + len(lines) + dropped

    def _take(self) -> tuple[list[bytes], int]:
        """All lines that wait, and how many were dropped behind them; waits for the first, nothing at the end."""
        with self._changed:
            while not (self._lines or self._dropped or self._closing):
                self._changed.wait()
            taken = self._lines, self._dropped
            self._lines, self._size, self._dropped = [], 0, 0
        return taken


class _Gate:
    """The first processor: it lets an event pass from the least level on, which may change."""

    def __init__(self, level: str) -> None:
        self.least = LEVELS[level.upper()]

    def __call__(self, _: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if LEVELS[method.upper()] < self.least:
            raise structlog.DropEvent
        return event


def change_level(level: str) -> None:
    """From now on only what is of this level or above is logged; nothing before `configure`."""
    for processor in structlog.get_config()["processors"]:
        if isinstance(processor, _Gate):
            processor.least = LEVELS[level.upper()]


def configure(level: str, log_format: str) -> LineWriter:
    """Set up the log: to stderr, `level` and above; `log_format` "json", "console", or "auto" by what stderr is.

    Where that is the journal, each event is an entry with fields. What was logged is written when the process ends in
    an orderly way, at the latest.
    """
    fd = -1 if sys.stderr is None else sys.stderr.fileno()  # -1: we were started without a stderr
    terminal = os.isatty(fd)
    processors = _processors(console=log_format == "console" or (log_format == "auto" and terminal), colors=terminal)
    journal = leads_to_journal(os.environ, fd) and log_format == "auto"
    sink: Sink = Journal(Descriptor(fd)) if journal else Descriptor(fd)
    writer = LineWriter(sink, lambda count: _render(processors, "warning", event="log.dropped", lines=count))
    writer.start()
    atexit.register(writer.close)
    structlog.configure(
        processors=[_Gate(level), *processors],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    # Libraries (asyncio, aiohttp) speak through the standard module: their warnings become events like ours.
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    # A traceback for every malformed request line would let any port scanner fill the log.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    return writer


def _processors(*, console: bool, colors: bool) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,  # without the values of variables, which may be secrets
        _steers_nothing if console else _encodable,
        _unfailing(
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
            if console
            else structlog.processors.JSONRenderer(serializer=_dumps)
        ),
    ]


def _render(processors: Sequence[Processor], level: str, **event: Any) -> str:
    rendered: Any = event
    for processor in processors:
        rendered = processor(None, level, rendered)
    return str(rendered)


def _dumps(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def _encodable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Strings that cannot be encoded (a lone surrogate in a header) are escaped."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isascii():
            event[key] = value.encode(errors="backslashreplace").decode()
    return event


def _steers_nothing(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Whatever a client or a worker said, it does not move the cursor of who reads it; a traceback keeps its lines."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = "\n".join(map(printable, value.split("\n"))) if key == "exception" else printable(value)
    return event


def _unfailing(renderer: Processor) -> Processor:
    """The renderer, with a careful second try for what it cannot show (an integer over 64 bits, a failing __str__)."""

    def render(logger: WrappedLogger, level: str, event: EventDict) -> Any:
        try:
            return renderer(logger, level, dict(event))
        except Exception:  # noqa: BLE001 - whatever the methods of a value raise; the line comes, with the value's repr
            return renderer(logger, level, {k: v if type(v) is str else _shown(v) for k, v in event.items()})

    return render


def _shown(value: Any) -> str:
    try:
        return repr(value)[:MOST_SAID]
    except Exception:  # noqa: BLE001 - the last resort for a value that cannot show itself
        return f"<{type(value).__name__}>"


class _Forward(logging.Handler):
    """Hands the standard library's records to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record as one event."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit the message must not fail who logs it
            message = f"{_shown(record.msg)} {_shown(record.args)}"
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)  # levels in between have no name
        structlog.get_logger(record.name).log(
            level, "library.log", logger=record.name, message=message, exc_info=record.exc_info
        )
