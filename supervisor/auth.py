"""Who may ask, and what: keys, the rows a server knows them by, and the principals they stand for. Pure.

A key is a text that only its holder has: `agentd_`, its id, `_`, and 256 random bits. A row holds its digest, so that
whoever reads the file of keys cannot call the server. What is wrong with a row is told without showing a key.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from supervisor.strict_json import JsonError
from supervisor.strict_json import parse as parse_json

PREFIX: Final = "agentd_"
ID_BYTES: Final = 4
SECRET_BYTES: Final = 32
MAX_GRAPH_BYTES: Final = 1024
VERSION: Final = 1
LAST_SECOND: Final = 253_402_300_799  # of the year 9999
MOST_SHOWN: Final = 64

USERS: Final = "1 to 64 of A-Z a-z 0-9 . _ @ -"
GRAPHS: Final = f"the name of a graph, at most {MAX_GRAPH_BYTES} bytes"

JWT: Final = "jwt"  # the name of all principals that come by a token of a user
SEPARATOR: Final = "/"  # between a principal's user and a name below it; no principal's user has one
MAX_TURNS: Final = 1_000_000
MAX_CHANNELS: Final = 1_000_000
MOST_ORIGINS: Final = 32
ORIGINS: Final = "an origin as browsers send it, such as https://example.com, without path"

_USER: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_ID: Final = re.compile(rf"[0-9a-f]{{{2 * ID_BYTES}}}")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]{0,31}://[a-z0-9.\[\]:_-]{1,253}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
BOUNDS: Final = ("turns_per_minute", "channels", "origins")  # of a row; files of earlier versions have none
# As a name it would be a slip, and shown for ever.
_KEY: Final = re.compile(rf"{PREFIX}[0-9a-f]{{{2 * ID_BYTES}}}_[A-Za-z0-9_-]{{43}}")
_SECRET: Final = re.compile(rf"{PREFIX}[0-9a-f]|[A-Za-z0-9_-]{{40}}")  # what a key, a part of one or a digest has
_ID_PLACE: Final = slice(len(PREFIX), len(PREFIX) + 2 * ID_BYTES)


class Scope(StrEnum):
    """What a principal may do; supervisor/http/scopes.py has the paths of each."""

    TURNS = "turns"
    CONTROL = "control"
    OPS = "ops"


EVERY: Final = frozenset(Scope)
SCOPES: Final = ", ".join(Scope)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a key may do, None: any amount; the `origins` of web pages it may be used from, none: of any."""

    turns_per_minute: int | None = None
    channels: int | None = None
    origins: tuple[str, ...] = ()


FREE: Final = Bounds()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is from: a key's id, "jwt", "token" or "anybody"; whose turns they are ('': nobody's particular).

    With a `graph` it may ask that one alone. To one with a `user` what is another's does not exist.
    """

    name: str
    user: str = ""
    graph: str | None = None
    scopes: frozenset[Scope] = EVERY
    bounds: Bounds = FREE

    @property
    def account(self) -> str:
        """Whose limits count: a key's, or one user's of those that come by the same name."""
        return f"{JWT} {self.user}" if self.name == JWT else self.name

    def allows(self, scope: Scope) -> bool:
        """Whether it may do what needs this scope."""
        return scope in self.scopes

    def sees(self, space: str, graph: str) -> bool:
        """Whether what is of this user ('': nobody's) and graph is there for it."""
        return self.user in ("", space) and self.graph in (None, graph)

    def bind(self, user: str) -> str:
        """A user that a request names, among those of this principal: its own one, or one below that."""
        if not self.user:
            return user
        return f"{self.user}{SEPARATOR}{user}" if user else self.user

    def unbind(self, user: str) -> str | None:
        """`bind` undone; None for one of another principal."""
        if not self.user:
            return user
        if user == self.user:
            return ""
        own = f"{self.user}{SEPARATOR}"
        return user.removeprefix(own) if user.startswith(own) else None


ANYBODY: Final = Principal("anybody")
MASTER: Final = Principal("token")


class KeysError(ValueError):
    """Keys that cannot be used; the text names what is wrong and what is allowed, and never shows a key."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """What is kept of a key: `digest` is the SHA-256 of its whole text, in hex; `created_at` in seconds since 1970."""

    id: str
    digest: str
    user: str
    graph: str | None
    scopes: frozenset[Scope]
    created_at: int
    bounds: Bounds = FREE

    @property
    def principal(self) -> Principal:
        """Who its holder is."""
        return Principal(self.id, self.user, self.graph, self.scopes, self.bounds)

    @property
    def shown(self) -> dict[str, Any]:
        """What may be shown of it, as JSON."""
        scopes = [scope.value for scope in Scope if scope in self.scopes]
        bounds = {**asdict(self.bounds), "origins": list(self.bounds.origins)}
        shown = {"id": self.id, "user": self.user, "graph": self.graph, "scopes": scopes, **bounds}
        return {**shown, "created_at": self.created_at}


def make_key(
    draw: Callable[[int], bytes],
    *,
    user: str,
    graph: str | None,
    scopes: Collection[Scope],
    created_at: int,
    bounds: Bounds = FREE,
) -> tuple[str, KeyRow]:
    """The text of a new key, and its row; `draw` gives so many random bytes."""
    key_id = draw(ID_BYTES).hex()
    secret = base64.urlsafe_b64encode(draw(SECRET_BYTES)).rstrip(b"=").decode()
    text = f"{PREFIX}{key_id}_{secret}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text, KeyRow(key_id, digest, user, graph, frozenset(scopes), created_at, bounds)


class KeyTable:
    """Keys by their ids, as a server looks them up."""

    def __init__(self, rows: Iterable[KeyRow] = ()) -> None:
        self._known = {row.id.encode(): (bytes.fromhex(row.digest), row.principal) for row in rows}

    def __len__(self) -> int:
        return len(self._known)

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the keys."""
        return frozenset(key_id.decode() for key_id in self._known)

    def find(self, secret: bytes) -> Principal | None:
        """Whose key this is, None if it is none. It takes as long for an id that is not known as for one that is."""
        digest, principal = self._known.get(secret[_ID_PLACE], _NOBODY)
        return principal if hmac.compare_digest(hashlib.sha256(secret).digest(), digest) else None


_NOBODY: Final[tuple[bytes, Principal | None]] = (bytes(32), None)


# ---------------------------------------------------------------------- the file's document


def parse(data: bytes) -> tuple[KeyRow, ...]:
    """The rows of a file of keys; one of nothing but white space has none. Raises KeysError."""
    if not data.strip():
        return ()
    try:
        document = parse_json(data)
    except JsonError as error:
        raise KeysError(str(error)) from None
    _check_fields(document, "the document", ("version", "keys"))
    if type(document["version"]) is not int or document["version"] != VERSION:
        raise _refused("version", document["version"], str(VERSION))
    if not isinstance(document["keys"], list):
        raise _refused("keys", document["keys"], "a list of keys")
    rows: dict[str, KeyRow] = {}
    for number, item in enumerate(document["keys"]):
        row = _row(item, f"keys[{number}]")
        if row.id in rows:
            raise KeysError(f"keys[{number}].id is {row.id!r}, as that of another key; allowed: an id once")
        rows[row.id] = row
    return tuple(rows.values())


def dump(rows: Iterable[KeyRow]) -> bytes:
    """A file of keys with these rows."""
    keys = [{"id": row.id, "digest": row.digest, **row.shown} for row in rows]
    return json.dumps({"version": VERSION, "keys": keys}, indent=1).encode() + b"\n"


def user_of(value: object, place: str) -> str:
    """The user at `place`; '' is none. Raises KeysError."""
    if isinstance(value, str) and (value == "" or _USER.fullmatch(value)) and not _KEY.search(value):
        return value
    raise _refused(place, value, USERS)


def graph_of(value: object, place: str) -> str | None:
    """The graph at `place`; None is all of them. Raises KeysError."""
    if value is None:
        return None
    size = len(value.encode(errors="replace")) if isinstance(value, str) else 0
    if isinstance(value, str) and 0 < size <= MAX_GRAPH_BYTES and "\0" not in value and not _KEY.search(value):
        return value
    raise _refused(place, value, GRAPHS)


def scopes_of(values: object, place: str) -> frozenset[Scope]:
    """The scopes in a list at `place`, one at least. Raises KeysError."""
    if not isinstance(values, list) or not values:
        raise _refused(place, values, f"a list of {SCOPES}")
    for value in values:
        if not isinstance(value, str) or value not in EVERY:
            raise _refused(place, value, SCOPES)
    return frozenset(map(Scope, values))


def count_of(value: object, place: str, most: int) -> int | None:
    """The limit at `place`; None is none. Raises KeysError."""
    if value is None or (type(value) is int and 1 <= value <= most):
        return value
    raise _refused(place, value, f"a whole number from 1 to {most}")


def origins_of(values: object, place: str) -> tuple[str, ...]:
    """The origins in a list at `place`. Raises KeysError."""
    if not isinstance(values, list | tuple) or len(values) > MOST_ORIGINS:
        raise _refused(place, values, f"a list of at most {MOST_ORIGINS} origins")
    for value in values:
        if not isinstance(value, str) or not _ORIGIN.fullmatch(value):
            raise _refused(place, value, ORIGINS)
    return tuple(values)


def masked(value: object) -> str:
    """A value for people: short, and without what may be a key."""
    text = repr(value)
    if _SECRET.search(text):
        return "******** (it looks like a key)"
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def _row(item: object, place: str) -> KeyRow:
    row = _check_fields(item, place, ("id", "digest", "user", "graph", "scopes", "created_at"), BOUNDS)
    if not (isinstance(row["id"], str) and _ID.fullmatch(row["id"])):
        raise _refused(f"{place}.id", row["id"], f"{2 * ID_BYTES} hexadecimal digits")
    if not (isinstance(row["digest"], str) and _DIGEST.fullmatch(row["digest"])):
        raise KeysError(f"{place}.digest is no SHA-256; allowed: 64 hexadecimal digits")
    created_at = row["created_at"]
    if type(created_at) is not int or not 0 <= created_at <= LAST_SECOND:
        raise _refused(f"{place}.created_at", created_at, "whole seconds since 1970")
    return KeyRow(
        id=row["id"],
        digest=row["digest"],
        user=user_of(row["user"], f"{place}.user"),
        graph=graph_of(row["graph"], f"{place}.graph"),
        scopes=scopes_of(row["scopes"], f"{place}.scopes"),
        created_at=created_at,
        bounds=Bounds(
            turns_per_minute=count_of(row.get("turns_per_minute"), f"{place}.turns_per_minute", MAX_TURNS),
            channels=count_of(row.get("channels"), f"{place}.channels", MAX_CHANNELS),
            origins=origins_of(row.get("origins", []), f"{place}.origins"),
        ),
    )


def _check_fields(item: object, place: str, fields: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The object at `place`, which has these fields, perhaps the optional ones, and no others. Raises KeysError."""
    if not isinstance(item, dict):
        raise _refused(place, item, "an object")
    for name in item:
        if name not in fields and name not in optional:
            raise KeysError(f"{place} has a field {masked(name)}; allowed: {', '.join((*fields, *optional))}")
    for name in fields:
        if name not in item:
            raise KeysError(f"{place} has no {name}; needed: {', '.join(fields)}")
    return item


def _refused(place: str, value: object, allowed: str) -> KeysError:
    return KeysError(f"{place} is {masked(value)}; allowed: {allowed}")
