"""The server's own log: structlog, JSON when nobody watches, colours when somebody does."""

import logging
import sys
from typing import Any, Final

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS: Final = logging.getLevelNamesMapping()


def _dumps(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Strings that cannot be encoded (a lone surrogate in a header) are escaped: a log line never fails."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isascii():
            event[key] = value.encode(errors="backslashreplace").decode()
    return event


def configure(level: str, log_format: str) -> None:
    """Set up the log: to stderr, `level` and above; `log_format` "json", "console", or "auto" by the terminal."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _printable,
    ]
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dumps)]
    )
    structlog.configure(
        processors=shared + last,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries (asyncio, aiohttp) speak through the standard module: their warnings become events like ours.
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    # A traceback for every malformed request line would let any port scanner fill the log.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


class _Forward(logging.Handler):
    """Hands the standard library's records to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record as one event."""
        structlog.get_logger(record.name).log(
            record.levelno, "library.log", logger=record.name, message=record.getMessage(), exc_info=record.exc_info
        )
