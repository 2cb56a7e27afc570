"""Where settings come from: command line, environment, ``.env``, ``agentd.toml``, in this order (docs/settings.md).

A layer holds what one place says, by field of `supervisor.settings.Settings`, each value with the name the user wrote
it under. This module knows names and places, not types: it stays cheap to import for the client commands.
"""

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

from supervisor.addresses import LISTEN_ALLOWED, Address, items_of, parse_listen
from worker.spawn import CHANNEL_VARIABLE, INSTANCE_VARIABLE

PREFIX: Final = "AGENTD_"
COMMAND_LINE: Final = "command line"
ENVIRONMENT: Final = "environment"
DOTENV: Final = ".env"
CONFIG: Final = "agentd.toml"

_FLAG_ALIASES: Final[Mapping[str, str]] = {"tenapp-dir": "app_dir", "tenapp_dir": "app_dir"}  # of TEN's server
LISTEN: Final = "listen"  # one value for these fields
LISTEN_FIELDS: Final = ("host", "port", "also_listen")

_OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "host": (),
    "port": ("SERVER_PORT",),
    "also_listen": (),
    "property_file": ("AGENTD_PROPERTY",),
    "log_path": ("LOG_PATH",),
    "log_stdout": ("LOG_STDOUT",),
    "workers_max": ("WORKERS_MAX",),
    "max_gemini_worker_count": ("MAX_GEMINI_WORKER_COUNT",),
    "worker_quit_timeout_seconds": ("WORKER_QUIT_TIMEOUT_SECONDS", "WORKER_QUIT_TIMEOUT_SECONDES"),
    "worker_start_timeout_seconds": ("WORKER_START_TIMEOUT_SECONDS",),
    "worker_stop_grace_seconds": ("WORKER_STOP_GRACE_SECONDS",),
    "agora_app_id": ("AGORA_APP_ID",),
    "agora_app_certificate": ("AGORA_APP_CERTIFICATE",),
    "vector_document_preset_list": ("VECTOR_DOCUMENT_PRESET_LIST",),
    "store_url": ("AGENTD_STORE",),
}
# Variables with our prefix that are no settings of the server: the client's, and those agentd itself sets for workers.
_NO_SETTINGS: Final = re.compile(rf"AGENTD_SERVER|{CHANNEL_VARIABLE}|{INSTANCE_VARIABLE}|AGENTD_LITERAL_\d+")
# A Kubernetes Service named agentd puts these into every pod of its namespace.
_SERVICE_LINK: Final = re.compile(r"AGENTD_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP).*)")
_HINTS: Final[Mapping[str, str]] = {"AGENTD_HOST": "AGENTD_LISTEN", "AGENTD_PORT": "AGENTD_LISTEN"}


@dataclass(frozen=True, slots=True)
class Given:
    """One value: under which name the user wrote it, where, and the text it was part of if that held more."""

    value: Any
    name: str
    source: str
    part_of: str | None = None


Layer = dict[str, Given]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one setting; `value` is masked when it is secret, None when there is nothing to show."""

    name: str
    source: str
    reason: str
    value: str | None = None

    def __str__(self) -> str:
        given = self.name if self.value is None else f"{self.name}={self.value}"
        return f"{given} ({self.source}): {self.reason}"


class SettingsError(Exception):
    """Settings that cannot be used, with all their problems."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


def variables_of(field: str) -> tuple[str, ...]:
    """The environment variables of a field, the first one wins."""
    return _OTHER_NAMES.get(field, (PREFIX + field.upper(),))


def flag_of(field: str) -> str:
    """The command-line flag of a field."""
    return "--property" if field == "property_file" else "--" + field.replace("_", "-")


def from_variables(variables: Mapping[str, str | None], fields: Collection[str], source: str) -> Layer:
    """What environment variables say.

    An empty value of a name that TEN's server knows counts as unset; of ours, empty is a value.
    Raises SettingsError for a malformed AGENTD_LISTEN.
    """
    layer: Layer = {}
    for field in (*fields, LISTEN):
        for name in variables_of(field):
            value = variables.get(name)
            if value is not None and (value or name.startswith(PREFIX)):
                layer[field] = Given(value, name, source)
                break
    return _with_listen_split(layer)


def from_config(document: Mapping[str, Any], fields: Collection[str], source: str) -> Layer:
    """What the document of an agentd.toml says; raises SettingsError for keys that are no settings."""
    known = (*fields, LISTEN)
    if unknown := [key for key in document if key not in known]:
        raise SettingsError(
            *(Problem(key, source, f"is not a setting; {_instead(key.lower(), known)}") for key in unknown)
        )
    return _with_listen_split({key: Given(value, key, source) for key, value in document.items()})


def from_flags(flags: Mapping[str, str], fields: Collection[str]) -> Layer:
    """What flags say; `flags` maps the flag as written to its value, and ``--set NAME`` to that of a named setting.

    NAME may be a field, a flag without its dashes or an environment variable. Raises SettingsError for other names.
    """
    known = (*fields, LISTEN)
    by_name = {name: field for field in known for name in (field, flag_of(field)[2:], *variables_of(field))}
    by_name |= _FLAG_ALIASES
    layer: Layer = {}
    problems = []
    for flag, value in flags.items():
        name = flag.removeprefix("--set ").lstrip("-")
        field = by_name.get(name)
        if field is None:
            problems.append(Problem(flag, COMMAND_LINE, f"is not a setting; {_instead(name, by_name)}"))
        else:
            layer[field] = Given(value, flag, COMMAND_LINE)
    if problems:
        raise SettingsError(*problems)
    return _with_listen_split(layer)


def unknown_variables(variables: Collection[str], fields: Collection[str], source: str) -> list[str]:
    """A warning for each AGENTD_* variable that is no setting."""
    known = [name for field in (*fields, LISTEN) for name in variables_of(field)]
    return [
        f"{name} ({source}) is not a setting; {_instead(_HINTS.get(name, name), known)}"
        for name in sorted(variables)
        if name.startswith(PREFIX)
        and name not in known
        and not _NO_SETTINGS.fullmatch(name)
        and not _SERVICE_LINK.fullmatch(name)
    ]


def read_dotenv(path: Path) -> dict[str, str | None]:
    """The variables of a ``.env`` file, none when there is no file; raises SettingsError when it is malformed."""
    text = _read(path, DOTENV)
    if text is None:
        return {}
    from dotenv import dotenv_values  # noqa: PLC0415 - most folders have no .env; every command would pay for it
    from dotenv.parser import parse_stream  # noqa: PLC0415

    for binding in parse_stream(StringIO(text)):
        if binding.error:
            raise SettingsError(Problem(f"line {binding.original.line}", DOTENV, "allowed: NAME=value"))
    return dotenv_values(stream=StringIO(text))


def read_config(path: Path | None) -> tuple[dict[str, Any], str]:
    """The document of an agentd.toml and the name to show for it; None: that of the working folder, if there is one.

    Raises SettingsError when the file is not TOML, or was named and cannot be read.
    """
    source = CONFIG if path is None else str(path)
    text = _read(Path(CONFIG) if path is None else path, source)
    if text is None:
        if path is not None:
            raise SettingsError(Problem("--config", COMMAND_LINE, "allowed: a file that exists", repr(source)))
        return {}, source
    try:
        return tomllib.loads(text), source
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(Problem("the file", source, f"is not TOML: {error}")) from error


def _read(path: Path, source: str) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(Problem("the file", source, f"cannot be read: {error.strerror}")) from error
    except UnicodeDecodeError as error:
        raise SettingsError(Problem("the file", source, f"is not text in UTF-8: byte {error.start}")) from error


def _with_listen_split(layer: Layer) -> Layer:
    """The layer with `listen` as its fields; it names all addresses, so it wins over these fields of the same layer."""
    listen = layer.pop(LISTEN, None)
    if listen is None:
        return layer
    items = items_of(listen.value) or [listen.value]
    first, *others = (_address(item, listen) for item in items)
    whole = listen.value if isinstance(listen.value, str) else ", ".join(map(str, items))
    values = (first.host, first.port, tuple(others))
    given = (Given(value, listen.name, listen.source, part_of=whole) for value in values)
    return layer | dict(zip(LISTEN_FIELDS, given, strict=True))


def _address(item: object, listen: Given) -> Address:
    address = parse_listen(item)
    if address is None:
        raise SettingsError(Problem(listen.name, listen.source, f"allowed: {LISTEN_ALLOWED}", repr(item)))
    return address


def _instead(name: str, known: Collection[str]) -> str:
    bare = {one.removeprefix(PREFIX): one for one in known}  # AGENTD_WORKERS_MAX is meant to be WORKERS_MAX
    nearest = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1)
    return f"did you mean {bare[nearest[0]]}?" if nearest else "see docs/settings.md for the settings there are"
