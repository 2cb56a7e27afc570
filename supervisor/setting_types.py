"""The types of settings: how the text of a flag or variable, or a value of agentd.toml, is read, and what is allowed.

Every type says in words what it takes (`Allowed`), for error messages, `agentd doctor --settings` and the docs. Pure.
"""

import re
import shlex
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, SecretStr

from supervisor.addresses import LISTEN_ALLOWED, Address, is_host, items_of, parse_listen
from supervisor.property import INJECTABLE, Injection
from supervisor.store.address import ALLOWED as STORES
from supervisor.store.address import SqliteFile, parse_address

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
LEAST_SIGNING_SECRET: Final = 32  # bytes, as RFC 7518 wants them for HS256 (section 3.2)

_UNITS: Final = {"": 1, "B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB}
_WHOLE_UNITS: Final = (("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("", 1))
_BOOLEANS: Final = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_YEAR: Final = 365 * 86_400
_MOST_COUNT: Final = 2**31 - 1
_MOST_LIMIT: Final = 2**63 - 1  # what an rlimit can hold


@dataclass(frozen=True, slots=True)
class Allowed:
    """Metadata of a field: what it takes, in words."""

    text: str


@dataclass(frozen=True, slots=True)
class Default:
    """Metadata of a field whose default depends on the machine: the rule, in words."""

    text: str


class SecretUrl:
    """A URL that may hold a password: shown with a mask in its place."""

    __slots__ = ("_shown", "_text")

    def __init__(self, text: str, shown: str) -> None:
        self._text = text
        self._shown = shown

    def get_secret_value(self) -> str:
        """The URL with its password."""
        return self._text

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"SecretUrl({self._shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretUrl) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def _whole(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", value.strip()):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("not a whole number")  # noqa: TRY004 - to pydantic a ValueError is an invalid value
    return value


def _bytes(value: object) -> object:
    match = re.fullmatch(r"([0-9]{1,19})\s*([A-Za-z]*)", value.strip()) if isinstance(value, str) else None
    if match and match[2].upper() in _UNITS:
        return int(match[1]) * _UNITS[match[2].upper()]
    return _whole(value)


def size_text(count: int) -> str:
    """Bytes in the largest unit they are a whole number of, as `Bytes` reads it."""
    unit, factor = next((name, size) for name, size in _WHOLE_UNITS if count % size == 0)
    return f"{count // factor}{unit}"


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("not a number")  # noqa: TRY004 - as above
    return value


def _boolean(value: object) -> object:
    truth = value if isinstance(value, bool) else _BOOLEANS.get(str(value).lower())
    if truth is None:
        raise ValueError("not a boolean")
    return truth


def _items(value: object) -> object:
    if isinstance(value, str):
        return tuple(item for item in map(str.strip, value.split(",")) if item)
    return value


def _words(value: object) -> object:
    words = tuple(shlex.split(value)) if isinstance(value, str) else value
    return words or None


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def lowered(value: object) -> object:
    """Text in lower case, anything else as it is."""
    return value.lower() if isinstance(value, str) else value


def _absolute(value: object) -> object:
    if not isinstance(value, str | Path) or str(value) == "" or "\0" in str(value):
        raise ValueError("not a path")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:  # ~somebody who does not exist
        raise ValueError(str(error)) from error


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError("not an existing folder")
    return path


def store_url(value: object) -> SecretUrl:
    """The URL of a store; raises ValueError."""
    text = str(value)
    address = parse_address(text)
    # A file is named from the root: the working folder may be another one when the store is opened.
    return SecretUrl(str(address) if isinstance(address, SqliteFile) else text, str(address))


def _host(value: str) -> str:
    if not is_host(value):
        raise ValueError("not a host")
    return value


def _address(item: object) -> Address:
    address = item if isinstance(item, Address) else parse_listen(item)
    if address is None:
        raise ValueError("not an address")
    return address


def _addresses(value: object) -> tuple[Address, ...]:
    return tuple(map(_address, items_of(value)))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`; a name other than localhost counts as no."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _rows(value: object) -> object:
    if not isinstance(value, str):
        return value
    rows = (item.strip().rpartition("=") for item in value.split(",") if item.strip())
    return {pattern.strip(): count.strip() for pattern, _, count in rows}


def _pattern(value: str) -> str:
    if not value:
        raise ValueError("an empty pattern")
    return value


def _host_pattern(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._*?-]+", value):
        raise ValueError("not a host name or a pattern of one")
    return value.lower()


def _injection(value: object) -> object:
    if not isinstance(value, str):
        return value
    target, _, start = value.partition("=")
    node, _, key = target.strip().partition(".")
    field, _, kind = start.strip().partition(":")
    if not node or not key or kind not in ("", "str"):
        raise ValueError("not a row")
    return Injection(node, key, field, as_string=kind == "str")


def _injectable(row: Injection) -> Injection:
    if row.field not in INJECTABLE:
        raise ValueError("not a start parameter")
    return row


def _token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("not a token")
    return value


def _signing_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode("utf-8", "surrogateescape")) < LEAST_SIGNING_SECRET:
        raise ValueError("too short")
    return value


Count = Annotated[
    int, BeforeValidator(_whole), Field(ge=1, le=_MOST_COUNT), Allowed(f"a whole number from 1 to {_MOST_COUNT}")
]
Days = Annotated[
    int,
    BeforeValidator(_whole),
    Field(ge=0, le=_MOST_COUNT),
    Allowed(f"a whole number from 0 to {_MOST_COUNT}, 0: for ever"),
]
Port = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=65535), Allowed("a port from 0 to 65535, 0: any free")]
Limit = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=_MOST_LIMIT)]
OptionalLimit = Annotated[
    Limit | None, BeforeValidator(_none_if_empty), Allowed(f"a whole number from 1 to {_MOST_LIMIT}, empty: no limit")
]
Weight = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=10_000)]
OptionalWeight = Annotated[
    Weight | None, BeforeValidator(_none_if_empty), Allowed("a whole number from 1 to 10000, empty: the kernel's 100")
]
Bytes = Annotated[
    int,
    BeforeValidator(_bytes),
    Field(ge=1, le=_MOST_LIMIT),
    Allowed("bytes from 1, also with a unit: 512KiB, 64MiB, 1GiB"),
]
OptionalBytes = Annotated[
    Bytes | None,
    BeforeValidator(_none_if_empty),
    Allowed("bytes from 1, also with a unit: 512KiB, 64MiB, 1GiB; empty: no limit"),
]
Seconds = Annotated[
    float,
    BeforeValidator(_number),
    Field(ge=0, le=_YEAR, allow_inf_nan=False),
    Allowed(f"seconds from 0 to {_YEAR}, also with a fraction"),
]
PositiveSeconds = Annotated[
    float,
    BeforeValidator(_number),
    Field(gt=0, le=_YEAR, allow_inf_nan=False),
    Allowed(f"seconds over 0, to {_YEAR}, also with a fraction"),
]
Flag = Annotated[bool, BeforeValidator(_boolean), Allowed("1, t, true, 0, f or false")]
Host = Annotated[str, AfterValidator(_host), Allowed("an address or a host name")]
Addresses = Annotated[tuple[InstanceOf[Address], ...], BeforeValidator(_addresses), Allowed(LISTEN_ALLOWED)]
AbsolutePath = Annotated[Path, BeforeValidator(_absolute), Allowed("a path, from the working folder if relative")]
ExistingFolder = Annotated[
    Path,
    BeforeValidator(_absolute),
    AfterValidator(_existing),
    Allowed("an existing folder, from the working folder if relative"),
]
Patterns = Annotated[
    tuple[Annotated[str, AfterValidator(_pattern)], ...],
    BeforeValidator(_items),
    Allowed("patterns like A_*, separated by commas"),
]
HostPatterns = Annotated[
    tuple[Annotated[str, AfterValidator(_host_pattern)], ...],
    BeforeValidator(_items),
    Allowed("host names without port, or patterns like *.example.org, separated by commas; *: all"),
]
OptionalPatterns = Annotated[
    tuple[Annotated[str, AfterValidator(_pattern)], ...] | None,
    BeforeValidator(_items),
    Allowed("patterns like llm.* (node.property), separated by commas; empty: none may be overridden"),
]
GraphLimits = Annotated[
    dict[
        Annotated[str, AfterValidator(_pattern)], Annotated[int, BeforeValidator(_whole), Field(ge=0, le=_MOST_COUNT)]
    ],
    BeforeValidator(_rows),
    Allowed("pattern=count rows, separated by commas; a table in agentd.toml"),
]
Injections = Annotated[
    tuple[Annotated[Injection, BeforeValidator(_injection), AfterValidator(_injectable)], ...],
    BeforeValidator(_items),
    Allowed(
        "node.property=field rows, separated by commas (field:str for a string); field is one of "
        + ", ".join(INJECTABLE)
    ),
]
Command = Annotated[
    tuple[str, ...] | None,
    BeforeValidator(_words),
    Allowed("a command line with shell quoting, a list in agentd.toml; empty: none"),
]
Token = Annotated[
    Annotated[SecretStr, AfterValidator(_token)] | None,
    BeforeValidator(_none_if_empty),
    Allowed("visible ASCII characters without spaces, empty: none"),
]
SigningSecret = Annotated[
    Annotated[SecretStr, AfterValidator(_signing_secret)] | None,
    BeforeValidator(_none_if_empty),
    Allowed(f"any text of at least {LEAST_SIGNING_SECRET} bytes, empty: none"),
]
Secret = Annotated[SecretStr | None, BeforeValidator(_none_if_empty), Allowed("any text, empty: none")]
StoreUrl = Annotated[InstanceOf[SecretUrl], BeforeValidator(store_url), Allowed(STORES)]
OptionalText = Annotated[str | None, BeforeValidator(_none_if_empty), Allowed("any text, empty: none")]
Text = Annotated[str, Allowed("any text")]
