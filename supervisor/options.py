"""What agentd itself reads of a graph: the key ``agentd`` of an entry of ``predefined_graphs``. Pure.

::

    {"name": "voice", "graph": {...}, "agentd": {"command": ["tman", "run", "start"], "cwd": ".", "max_workers": 3,
                                                 "limits": {"memory_bytes": 536870912, "processes": 64},
                                                 "isolation": {"level": "confined", "read": ["/srv/models"]}}}
    {"name": "echo", "graph": {...}, "agentd": {"handles": ["chat", "invoke"], "description": "says what it hears"}}
"""

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from supervisor.causes import Cause, Refusal
from supervisor.isolation import IsolationError, IsolationOptions, parse_isolation

KEY: Final = "agentd"

_MOST: Final = 2**63 - 1  # what an rlimit can hold
KINDS: Final = ("chat", "invoke")  # of turns
MOST_DESCRIPTION: Final = 1000  # characters

_MOST_PROCESSES: Final = 2**22  # that Linux can have; cgroups take no more
LIMIT_RANGES: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "memory_bytes": (1, _MOST),
        "processes": (1, _MOST_PROCESSES),
        "cpu_weight": (1, 10_000),
        "open_files": (1, _MOST),
        "file_bytes": (1, _MOST),
        "cpu_seconds": (1, _MOST),
    }
)


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """How a graph's workers are run, and what its agent says of itself.

    `command` is the program that is the worker (None: one of ours), run in `cwd`, relative to the app folder.
    `limits` has only the limits the file names (`worker.spawn.Limits`), `isolation` what they may reach. `max_workers`
    bounds the workers of this graph.
    `handles` are the kinds of turns the agent answers (None: its worker tells), `description` is for people. Where
    answers are `structured`, an agent's data is its answer, whatever text it says besides.
    """

    command: tuple[str, ...] | None = None
    cwd: str | None = None
    limits: dict[str, int] = field(default_factory=dict)
    isolation: IsolationOptions = field(default_factory=IsolationOptions)
    max_workers: int | None = None
    handles: tuple[str, ...] | None = None
    description: str = ""
    structured: bool = False


def parse_options(graph_name: str, value: Any) -> GraphOptions:
    """The options of a graph's entry; a value of None has none.

    Raises Refusal(PROPERTY_INVALID) that names the graph, the key, the value and what is allowed.
    """
    if value is None:
        return GraphOptions()
    if not isinstance(value, dict):
        raise _refusal(graph_name, KEY, value, "an object")
    parsed: dict[str, Any] = {}
    for key, item in value.items():
        reader = _READERS.get(key)
        if reader is None:
            raise Refusal(
                Cause.PROPERTY_INVALID,
                f"graph {graph_name!r}: {KEY} has no key {key!r}; allowed: {', '.join(_READERS)}",
            )
        parsed[key] = reader(graph_name, f"{KEY}.{key}", item)
    return GraphOptions(**parsed)


def _command(graph_name: str, key: str, value: Any) -> tuple[str, ...]:
    allowed = "a command line, or a list of a program and its arguments without NUL"
    words = value
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise _refusal(graph_name, key, value, f"{allowed} ({error})") from error
    if not isinstance(words, list) or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise _refusal(graph_name, key, value, allowed)
    if not words or not words[0]:
        raise _refusal(graph_name, key, value, allowed)
    return tuple(words)


def _folder(graph_name: str, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise _refusal(graph_name, key, value, "the path of a folder")
    return value


def _limits(graph_name: str, key: str, value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise _refusal(graph_name, key, value, f"an object with {', '.join(LIMIT_RANGES)}")
    for name, item in value.items():
        if name not in LIMIT_RANGES:
            raise _unknown_key(graph_name, key, name, LIMIT_RANGES)
        _integer(graph_name, f"{key}.{name}", item, *LIMIT_RANGES[name])
    return dict(value)


def _isolation(graph_name: str, key: str, value: Any) -> IsolationOptions:
    try:
        return parse_isolation(value)
    except IsolationError as error:
        raise _refusal(graph_name, f"{key}{error.key}", error.value, error.allowed) from error


def _max_workers(graph_name: str, key: str, value: Any) -> int:
    return _integer(graph_name, key, value, 1, _MOST)


def _handles(graph_name: str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(kind in KINDS for kind in value):
        raise _refusal(graph_name, key, value, f"a list of {' and '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in value)


def _description(graph_name: str, key: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MOST_DESCRIPTION:
        raise _refusal(graph_name, key, value, f"a text of at most {MOST_DESCRIPTION} characters")
    return value


def _structured(graph_name: str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refusal(graph_name, key, value, "true or false")
    return value


def _integer(graph_name: str, key: str, value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _refusal(graph_name, key, value, f"an integer from {least} to {most}")
    return value


def _unknown_key(graph_name: str, where: str, key: str, allowed: Iterable[str]) -> Refusal:
    return Refusal(
        Cause.PROPERTY_INVALID, f"graph {graph_name!r}: {where} has no key {key!r}; allowed: {', '.join(allowed)}"
    )


def _refusal(graph_name: str, key: str, value: Any, allowed: str) -> Refusal:
    return Refusal(Cause.PROPERTY_INVALID, f"graph {graph_name!r}: {key} is {repr(value)[:80]}; allowed is {allowed}")


_READERS: Final[Mapping[str, Callable[[str, str, Any], Any]]] = MappingProxyType(
    {
        "command": _command,
        "cwd": _folder,
        "limits": _limits,
        "isolation": _isolation,
        "max_workers": _max_workers,
        "handles": _handles,
        "description": _description,
        "structured": _structured,
    }
)
