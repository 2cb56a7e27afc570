"""What a graph says of its workers' isolation: the key ``isolation`` of its ``agentd`` section. Pure.

::

    "isolation": "namespaced"
    "isolation": {"level": "confined", "read": ["/srv/models"], "write": ["data"], "connect_ports": [443]}

A word is short for an object with this level.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from worker.spawn import BASIC, LEVELS

MOST_PATHS: Final = 64
MOST_PORTS: Final = 64
PORTS: Final = 65535


@dataclass(frozen=True, slots=True)
class IsolationOptions:
    """What a graph asks for, `level` None: the server's. Paths may be relative to the app folder.

    `read` and `write` are granted besides what a worker needs; ports are those of TCP (None: any).
    """

    level: str | None = None
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    connect_ports: tuple[int, ...] | None = None
    bind_ports: tuple[int, ...] | None = None
    network: bool = True
    unix_sockets: bool = False


def parse_isolation(value: Any) -> IsolationOptions:
    """The options of a graph. Raises IsolationError."""
    if isinstance(value, str):
        value = {"level": value}
    if not isinstance(value, dict):
        raise IsolationError("", value, f"one of {', '.join(LEVELS)}, or an object with {', '.join(_READERS)}")
    parsed: dict[str, Any] = {}
    for key, item in value.items():
        if key not in _READERS:
            raise IsolationError("", {key: item}, f"an object with {', '.join(_READERS)}")
        allowed, read = _READERS[key]
        try:
            parsed[key] = read(item)
        except ValueError as error:
            raise IsolationError(f".{key}", item, allowed) from error
    options = IsolationOptions(**parsed)
    if options.level == BASIC and len(parsed) > 1:
        raise IsolationError("", value, f"nothing besides the level {BASIC}, which restricts nothing")
    return options


class IsolationError(ValueError):
    """A value that is not allowed: its key (with a dot in front; "" is the whole), the value, and what is allowed."""

    def __init__(self, key: str, value: Any, allowed: str) -> None:
        super().__init__(allowed)
        self.key = key
        self.value = value
        self.allowed = allowed


def _level(value: Any) -> str:
    if not isinstance(value, str) or value not in LEVELS:
        raise ValueError(value)
    return value


def _paths(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MOST_PATHS:
        raise ValueError(value)
    if not all(isinstance(path, str) and path and "\0" not in path for path in value):
        raise ValueError(value)
    return tuple(value)


def _ports(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MOST_PORTS:
        raise ValueError(value)
    if not all(isinstance(port, int) and not isinstance(port, bool) and 0 <= port <= PORTS for port in value):
        raise ValueError(value)
    return tuple(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)  # noqa: TRY004 - one error for all that is not allowed
    return value


_PATHS: Final = (f"a list of at most {MOST_PATHS} paths", _paths)
_PORTS: Final = (f"a list of at most {MOST_PORTS} ports from 0 to {PORTS}", _ports)
_FLAG: Final = ("true or false", _flag)
_READERS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = MappingProxyType(
    {
        "level": (f"one of {', '.join(LEVELS)}", _level),
        "read": _PATHS,
        "write": _PATHS,
        "connect_ports": _PORTS,
        "bind_ports": _PORTS,
        "network": _FLAG,
        "unix_sockets": _FLAG,
    }
)
