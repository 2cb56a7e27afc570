"""Every setting of the server, in one place: its type, default and meaning (docs/settings.md).

`load` reads the places of `supervisor.sources` and remembers where each value came from; `Settings(...)` with field
names takes exactly these values and the defaults.
"""

import os
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from supervisor import setting_types as kind
from supervisor import sources
from supervisor.addresses import Address
from supervisor.setting_types import GIB, MIB, Default, is_loopback
from supervisor.setting_words import MASK, Description, allowed, described, in_words, quoted, shown
from supervisor.sources import Given, Layer, Problem, SettingsError

__all__ = ["MASK", "Description", "Loaded", "Settings", "SettingsError", "describe", "in_words", "load", "shown"]

AGORA_ID_LENGTH: Final = 32
GEMINI: Final = "*gemini*"
LENIENT: Final = ("log_stdout", "max_gemini_worker_count")  # invalid counts as the default (wire/ten.md, section 11)
# What a reload changes without a restart: whatever is looked up when it is needed. What a channel or a turn has begun
# with it keeps.
LIVE: Final = frozenset(
    {
        *("jwt_turns_per_minute", "jwt_channels", "default_graph", "overridable", "unknown_addons", "missing_env"),
        *("log_level", "log_file_bytes", "log_total_bytes", "log_keep_days", "log_rate_bytes", "events_kept"),
        *("workers_max", "max_gemini_worker_count", "graph_limits", "worker_command", "worker_env"),
        *("worker_quit_timeout_seconds", "worker_start_timeout_seconds", "worker_stop_grace_seconds"),
        *("worker_settle_seconds", "keep_workers", "leave_seconds"),
        *("session_idle_seconds", "session_queue", "session_wait_seconds", "turn_seconds", "turn_silence_seconds"),
        *("agora_app_id", "agora_app_certificate", "vector_document_preset_list"),
        *("worker_memory_bytes", "worker_processes", "worker_cpu_weight", "worker_open_files"),
        *("worker_file_bytes", "worker_cpu_seconds"),
    }
)
SHIPPED: Final = Path(__file__).parent / "shipped"


def default_state_dir() -> Path:
    """The folder for sockets, pipes and logs of this user; raises SettingsError when the user has no home."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "agentd"
    if os.geteuid() == 0:
        return Path("/run/agentd")
    try:
        home = Path.home()
    except RuntimeError as error:
        reason = "has to be set: there is no HOME, and this user has no entry in the system's list of users"
        raise SettingsError(Problem("AGENTD_STATE_DIR", "default", reason)) from error
    return home / ".local/state/agentd"


def default_app_dir() -> Path:
    """The working folder when it is an app, else the app that comes with agentd."""
    here = Path.cwd()
    if (here / "property.json").is_file():
        return here
    return SHIPPED if SHIPPED.is_dir() else SHIPPED.parent.parent  # an editable install: the repository


class Settings(BaseModel):
    """The settings of one server; frozen, but for what is `LIVE`. Times are in seconds, sizes in bytes.

    Raises pydantic.ValidationError when a value is not allowed; `load` turns that into a `SettingsError`, which is
    raised here only for a default that cannot be found out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    host: kind.Host = Field("127.0.0.1", description="address the server listens on")
    port: kind.Port = Field(8080, description="port the server listens on")
    also_listen: kind.Addresses = Field((), description="addresses the server listens on besides")
    token: kind.Token = Field(None, description="bearer token that may do everything")
    jwt_secret: kind.SigningSecret = Field(
        None, description="secret that bearer tokens of users are signed with (HS256); with it the server is closed"
    )
    jwt_turns_per_minute: kind.OptionalLimit = Field(None, description="turns in any minute of each user with a token")
    jwt_channels: kind.OptionalLimit = Field(None, description="channels at once of each user with a token")
    allow_unprotected: kind.Flag = Field(False, description="listen beyond loopback without a token or keys")
    allowed_hosts: kind.HostPatterns = Field(
        (), description="names the server may be called by as long as it is open, besides localhost, addresses and host"
    )
    connections_max: kind.Count = Field(4096, description="connections at once, fewer if few files may be open")
    head_seconds: kind.PositiveSeconds = Field(15.0, description="time a new connection has to send a request's head")

    app_dir: Annotated[
        kind.ExistingFolder, Default("the working folder if it has a property.json, else the app that is shipped")
    ] = Field(
        default_factory=default_app_dir, description="app folder: working folder of foreign commands, base of imports"
    )
    property_file: Annotated[kind.AbsolutePath, Default("property.json in app_dir")] = Field(
        default_factory=lambda data: data["app_dir"] / "property.json", description="file with the graphs"
    )
    default_graph: Annotated[kind.OptionalText, Default("friday, else the first graph of the property file")] = Field(
        None, description="graph that answers where an API names none"
    )
    addons_dir: Annotated[kind.AbsolutePath, Default("ten_packages/extension in app_dir")] = Field(
        default_factory=lambda data: data["app_dir"] / "ten_packages" / "extension",
        description="folder with the add-ons of a TEN app, for their default properties",
    )
    state_dir: Annotated[
        kind.AbsolutePath, Default("$XDG_RUNTIME_DIR/agentd, else /run/agentd for root, else ~/.local/state/agentd")
    ] = Field(default_factory=default_state_dir, description="folder for sockets, pipes and records of live channels")
    keys_file: Annotated[kind.AbsolutePath, Default("keys.json in state_dir")] = Field(
        default_factory=lambda data: data["state_dir"] / "keys.json",
        description="file of the keys that clients may call with",
    )

    log_path: Annotated[kind.AbsolutePath, Default("logs in state_dir")] = Field(
        default_factory=lambda data: data["state_dir"] / "logs", description="folder for the workers' logs"
    )
    log_stdout: kind.Flag = Field(
        False, description="workers' output goes to the server's own, each line after its [channel], not to files"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(kind.lowered)] = (
        Field("info", description="least level of the server's own log lines")
    )
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(kind.lowered)] = Field(
        "auto",
        description="form of the server's own log lines; auto: console on a terminal, fields in the journal, else json",
    )
    log_file_bytes: kind.Bytes = Field(
        10 * MIB, description="size at which a channel's log is rotated; one predecessor is kept"
    )
    log_total_bytes: kind.Bytes = Field(GIB, description="size of all logs at which the oldest are deleted")
    log_keep_days: kind.Count = Field(7, description="days after which a log is deleted")
    log_rate_bytes: kind.Bytes = Field(8 * MIB, description="output of one worker per second that is read")

    workers_max: kind.Count = Field(100, description="workers at once, starting and stopping ones included")
    max_gemini_worker_count: kind.Count = Field(3, description="workers of one graph with gemini in its name")
    graph_limits: Annotated[kind.GraphLimits, Default("*gemini*, from max_gemini_worker_count")] = Field(
        {}, description="workers of one graph, by pattern of its name"
    )
    worker_quit_timeout_seconds: kind.Count = Field(60, description="lease of a channel that is not pinged")
    worker_start_timeout_seconds: kind.PositiveSeconds = Field(10.0, description="time a worker has to get ready")
    worker_stop_grace_seconds: kind.Seconds = Field(2.0, description="time between SIGTERM and SIGKILL")
    worker_settle_seconds: kind.Seconds = Field(
        0.3, description="time a foreign command has to live to count as started"
    )
    orphan_grace_seconds: kind.Seconds = Field(120.0, description="time workers outlive a control server that was lost")
    keep_workers: kind.Flag = Field(
        False,
        description="SIGTERM ends the server alone and leaves its workers to a successor, for orphan_grace_seconds",
    )
    leave_seconds: kind.Seconds = Field(
        5.0, description="time a server that leaves its workers has for the answers it still owes"
    )
    standby: kind.Flag = Field(
        False,
        description="a parent that has everything imported starts the server, and at once another one if it is killed",
    )
    beat_seconds: kind.PositiveSeconds = Field(2.0, description="time between two heartbeats of a worker")

    lease_downtime: Literal["paused", "running"] = Field(
        "paused", description="whether the leases of live channels go on while there is no control server"
    )
    session_idle_seconds: kind.Seconds = Field(60.0, description="time a session's worker is kept without a turn")
    session_queue: kind.Count = Field(8, description="turns of one session that may wait")
    session_wait_seconds: kind.PositiveSeconds = Field(60.0, description="time a turn waits for its session's others")
    turn_seconds: kind.PositiveSeconds = Field(600.0, description="time a turn may take")
    turn_silence_seconds: kind.PositiveSeconds = Field(120.0, description="time an agent may say nothing in a turn")
    history_messages: kind.Count = Field(100, description="messages of a conversation that its agent is given")
    history_bytes: kind.Bytes = Field(256 * 1024, description="size of the conversation that its agent is given")
    events_kept: kind.Count = Field(1024, description="events of one channel kept for readers that come back")

    store_url: Annotated[kind.StoreUrl, Default("store.db in state_dir")] = Field(
        default_factory=lambda data: kind.store_url(data["state_dir"] / "store.db"),
        description="database of conversations and of the ledger of channels",
    )
    store_keep_days: kind.Days = Field(
        30, description="days after which a turn, and a conversation not used, is deleted"
    )
    ledger_keep_days: kind.Days = Field(30, description="days after which a channel's row in the ledger is deleted")

    unknown_addons: Literal["error", "skip"] = Field(
        "error", description="a graph with add-ons that are not installed: refuse it, or leave these nodes inert"
    )
    missing_env: Literal["error", "empty"] = Field(
        "error", description="a graph with environment variables that are not set: refuse it, or take them as empty"
    )
    worker_command: kind.Command = Field(
        None, description="program that is the worker of every graph; may hold {property_file} and {channel_id}"
    )
    worker_env: kind.Patterns = Field(
        (), description="environment variables workers get besides the base list; *: all but AGENTD_*"
    )
    overridable: Annotated[kind.OptionalPatterns, Default("all")] = Field(
        None, description="node properties that a start may override"
    )
    injections: kind.Injections = Field((), description="start parameters put into nodes, besides the built-in rows")

    strict_status: kind.Flag = Field(
        False, description="errors of TEN's endpoints have their HTTP status instead of 200"
    )
    body_limit_bytes: kind.Bytes = Field(8 * MIB, description="largest request body")
    upload_limit_bytes: kind.Bytes = Field(64 * MIB, description="largest upload")
    upload_total_bytes: kind.Bytes = Field(
        512 * MIB, description="all uploads of one channel; also all those that arrive at the same time"
    )

    attachments_dir: Annotated[kind.AbsolutePath, Default("attachments in state_dir")] = Field(
        default_factory=lambda data: data["state_dir"] / "attachments",
        description="folder for the files that are uploaded for agents",
    )
    attachments_keep_days: kind.Days = Field(30, description="days after which an attachment is deleted")
    attachments_user_bytes: kind.Bytes = Field(2 * GIB, description="all attachments of one user")
    attachments_total_bytes: kind.Bytes = Field(20 * GIB, description="all attachments")
    attachment_file_bytes: kind.Bytes = Field(100 * MIB, description="largest file of an upload of attachments")
    attachment_request_bytes: kind.Bytes = Field(256 * MIB, description="largest upload of attachments")
    attachment_files_max: kind.Count = Field(20, description="files of one upload of attachments")
    attachment_seconds: kind.PositiveSeconds = Field(60.0, description="time in which an attachment is read, or fails")
    attachment_readers: kind.Count = Field(2, description="documents that are read at the same time, besides one text")
    attachment_queue: kind.Count = Field(200, description="attachments that may wait to be read")
    attachment_memory_bytes: kind.Bytes = Field(GIB, description="memory of the process that reads an attachment")

    agora_app_id: kind.OptionalText = Field(None, description="Agora app id, for tokens")
    agora_app_certificate: kind.Secret = Field(None, description="Agora app certificate, for tokens")
    vector_document_preset_list: kind.Text = Field("[]", description="JSON list of documents the UI offers")

    containment: Literal["auto", "cgroup", "sweep"] = Field(
        "auto", description="how a worker's process tree is held together; auto: cgroup where it can be"
    )
    spawner: Annotated[Literal["auto", "unit"], BeforeValidator(kind.lowered)] = Field(
        "auto",
        description="who starts the parent of all workers; auto: the server; unit: systemd, the server waits for it",
    )
    isolation: Literal["basic", "confined", "namespaced"] = Field(
        "confined", description="what workers are kept from, as far as their graphs say nothing else"
    )
    worker_memory_bytes: kind.OptionalBytes = Field(None, description="memory of one channel")
    worker_processes: kind.OptionalLimit = Field(None, description="processes of one channel")
    worker_cpu_weight: kind.OptionalWeight = Field(None, description="share of the CPU of one channel")
    worker_open_files: kind.OptionalLimit = Field(4096, description="open files of each process")
    worker_file_bytes: kind.OptionalBytes = Field(None, description="size of any file a worker writes")
    worker_cpu_seconds: kind.OptionalLimit = Field(None, description="CPU time of each process, in seconds")

    def follow(self, other: "Settings") -> tuple[list[str], list[str]]:
        """Take over the values of `other` that are LIVE, all at once, so that all who have these settings see them.

        The names of those that changed, and of those that differ but need a restart.
        """
        differing = [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]
        changed = [name for name in differing if name in LIVE]
        self.__dict__.update({name: getattr(other, name) for name in changed})
        return changed, [name for name in differing if name not in LIVE]

    @property
    def import_dir(self) -> Path:
        """Where relative imports of the property file start: the app folder, or its own folder if it is elsewhere."""
        inside = self.property_file.is_relative_to(self.app_dir)
        return self.app_dir if inside else self.property_file.parent

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All addresses the server listens on: `host` and `port`, then the others."""
        return (Address(self.host, self.port), *self.also_listen)

    @property
    def has_to_be_protected(self) -> bool:
        """Whether others reach the server, and it was not said that they may do so without a token or key."""
        return not (self.allow_unprotected or all(is_loopback(address.host) for address in self.addresses))

    @field_validator("graph_limits")
    @classmethod
    def _gemini_row(cls, limits: dict[str, int], info: ValidationInfo) -> dict[str, int]:
        return {GEMINI: info.data.get("max_gemini_worker_count", 3)} | limits

    @model_validator(mode="after")
    def _well_placed(self) -> Self:
        addresses = self.addresses
        for number, address in enumerate(addresses):
            if address.port and address in addresses[:number]:
                told = "{addresses} stands there twice, host and port counted; allowed: an address once, port 0 often"
                raise _misplaced(told, "also_listen", address)
        unprotected = self.token is None and self.jwt_secret is None and not os.access(self.keys_file, os.F_OK)
        if self.has_to_be_protected and unprotected:
            beyond = [address for address in addresses if not is_loopback(address.host)]
            told = (
                "listening beyond loopback, at {addresses}, lets everybody who reaches it start processes; allowed: "
                "a loopback address, or set AGENTD_TOKEN or AGENTD_JWT_SECRET, or make a key with `agentd keys add`, "
                "or set AGENTD_ALLOW_UNPROTECTED=true"
            )
            raise _misplaced(told, "also_listen" if is_loopback(self.host) else "host", *beyond)
        return self


def _misplaced(told: str, field: str, *addresses: Address) -> PydanticCustomError:
    """What is wrong with `addresses`, as `told`, by the fault of `field`."""
    context = {"field": field, "addresses": ", ".join(map(str, addresses))}
    return PydanticCustomError("misplaced", told, context)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, where each value that is no default came from, what was doubtful, and the environment with ``.env``."""

    settings: Settings
    given: Mapping[str, Given]
    warnings: tuple[str, ...]
    environment: Mapping[str, str]


def load(flags: Layer | None = None, config: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """The settings of flags, environment, ``.env`` and agentd.toml (or `config`), in this precedence.

    `environ` is the environment, that of the process unless given. Raises SettingsError with every problem there is.
    """
    fields = Settings.model_fields
    environ = os.environ if environ is None else environ
    dotenv = sources.read_dotenv(Path(sources.DOTENV))
    document, config_name = sources.read_config(config)
    layers = (
        flags or {},
        sources.from_variables(environ, fields, sources.ENVIRONMENT),
        sources.from_variables(dotenv, fields, sources.DOTENV),
        sources.from_config(document, fields, config_name),
    )
    given = dict(ChainMap(*layers))
    settings, dropped = _validated(given)
    warnings = [
        *sources.unknown_variables(environ, fields, sources.ENVIRONMENT),
        *sources.unknown_variables(dotenv.keys() - environ.keys(), fields, sources.DOTENV),
        *(f"{problem}; {shown(getattr(settings, name))} is used" for name, problem in dropped.items()),
    ]
    app_id = settings.agora_app_id
    if app_id is not None and len(app_id) != AGORA_ID_LENGTH:
        warnings.append(f"AGORA_APP_ID has {len(app_id)} characters; Agora's app ids have {AGORA_ID_LENGTH}")
    environment = {name: value for name, value in dotenv.items() if value is not None} | dict(environ)
    kept = {name: value for name, value in given.items() if name not in dropped}
    return Loaded(settings, kept, tuple(warnings), environment)


def _validated(given: Mapping[str, Given]) -> tuple[Settings, dict[str, Problem]]:
    """The settings, and the problems of lenient fields, whose values were dropped."""
    try:
        return Settings(**{name: one.value for name, one in given.items()}), {}
    except ValidationError as error:
        problems = _problems(error, given)
    dropped = {name: problem for name, problem in problems.items() if name in LENIENT}
    if len(dropped) < len(problems):
        raise SettingsError(*(problem for name, problem in problems.items() if name not in LENIENT))
    settings, _ = _validated({name: one for name, one in given.items() if name not in dropped})
    return settings, dropped


def _problems(error: ValidationError, given: Mapping[str, Given]) -> dict[str, Problem]:
    problems: dict[str, Problem] = {}
    for detail in error.errors(include_url=False, include_input=False):
        if detail["type"] == "default_factory_not_called":  # follows from another problem
            continue
        whole = not detail["loc"]  # a rule over several fields; it says which one it is about
        name = str(detail["ctx"]["field"] if whole else detail["loc"][0])
        info = Settings.model_fields[name]
        one = given.get(name) or Given(info.get_default(), name, "default")
        reason = detail["msg"] if whole else f"allowed: {allowed(info)}"
        problems.setdefault(name, Problem(one.name, one.source, reason, quoted(one.part_of or one.value, info)))
    return problems


def describe() -> list[Description]:
    """All settings in their order."""
    return [described(name, info) for name, info in Settings.model_fields.items()]
