"""Where a store is: a SQLite file or a PostgreSQL database, read from one text. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

ALLOWED: Final = "a path, sqlite:///path, or postgresql://user:password@host/database"
MASK: Final = "********"

_POSTGRES: Final = ("postgresql", "postgres")
# Options of a PostgreSQL URL, by their name here and in asyncpg. libpq calls the second one sslmode.
_OPTIONS: Final[Mapping[str, str]] = {"host": "host", "ssl": "ssl", "sslmode": "ssl"}


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A database in a file; `path` is absolute."""

    path: Path

    def __str__(self) -> str:
        return f"sqlite:///{self.path}"


@dataclass(frozen=True, slots=True)
class PostgresDatabase:
    """A database of a PostgreSQL server; `options` are those of asyncpg."""

    host: str | None
    port: int | None
    user: str | None
    password: str | None = field(repr=False)
    database: str
    options: Mapping[str, str]

    def __str__(self) -> str:
        """The address for people: the password masked."""
        user = (self.user or "") + (f":{MASK}" if self.password else "")
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host or ""
        port = "" if self.port is None else f":{self.port}"
        options = "&".join(f"{name}={value}" for name, value in self.options.items())
        return f"postgresql://{user}{'@' if user else ''}{host}{port}/{self.database}{'?' if options else ''}{options}"


Address = SqliteFile | PostgresDatabase


def parse_address(text: str) -> Address:
    """The address `text` names; a relative path starts from the working folder.

    As everywhere, ``sqlite:///`` is followed by a path that is relative unless it begins with a fourth slash.
    Raises ValueError, whose message never repeats `text`: it may hold a password.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return SqliteFile(_path(text))
    if scheme == "sqlite":
        if not rest.startswith("/"):
            raise ValueError("sqlite:// is followed by a third slash and a path")
        return SqliteFile(_path(rest[1:]))
    if scheme in _POSTGRES:
        return _postgres(text)
    raise ValueError(f"allowed: {ALLOWED}")


def _path(text: str) -> Path:
    if not text or "\0" in text or text.endswith("/") or text.startswith((":memory:", "file:")):
        raise ValueError("a store in a file takes the path of that file")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # ~somebody who does not exist
        raise ValueError("the path begins with the home folder of a user who does not exist") from error


def _postgres(text: str) -> PostgresDatabase:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise ValueError("not a URL: a password with special characters has to be percent-encoded") from error
    database = unquote(parts.path.removeprefix("/"))
    if not database or "/" in database or parts.fragment:
        raise ValueError("postgresql:// takes user:password@host/database")
    unknown = [name for name, _ in query if name not in _OPTIONS]
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; allowed: {', '.join(_OPTIONS)}")
    options = {_OPTIONS[name]: value for name, value in query}
    return PostgresDatabase(
        host=options.pop("host", None) or host,
        port=port,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        database=database,
        options=options,
    )
