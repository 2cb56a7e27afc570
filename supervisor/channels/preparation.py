"""From a start request to what is to be spawned: the graph's document, the command, the limits, the environment."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from supervisor.agora import build_token
from supervisor.catalog import GraphCatalog
from supervisor.causes import Cause, Refusal
from supervisor.channels.confinement import Confinement
from supervisor.channels.files import ChannelFiles
from supervisor.channels.requests import StartRequest
from supervisor.graph_file import dump_document, entries_of, nodes_of
from supervisor.options import GraphOptions
from supervisor.ports import PortAllocator
from supervisor.processes.environment import choose
from supervisor.property import StartParameters
from supervisor.settings import Settings
from worker.spawn import (
    BASIC,
    CHANNEL_VARIABLE,
    INSTANCE_VARIABLE,
    TEMPORARY,
    Isolation,
    Limits,
    SpawnRequest,
    instance_of,
)

PRELOADS: Final = "agentd.preloads"
# A worker gives up a little before we do: it can say which nodes were slow.
OWN_SHARE: Final = 0.9
FOLDER_VARIABLE: Final = "AGENTD_CHANNEL_FOLDER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one channel is spawned from. `config` or `property_file` hold secrets: neither is logged or kept."""

    foreign: bool
    environment: dict[str, str]
    limits: Limits
    warnings: tuple[str, ...]
    preload: tuple[str, ...] = ()
    config: dict[str, Any] | None = None  # own workers: handed over in memory
    command: tuple[str, ...] | None = None  # foreign workers
    cwd: str | None = None
    property_file: bytes | None = None  # foreign workers: they read it from the disk
    port: int = 0
    max_workers: int | None = None
    isolation: Isolation = field(default_factory=Isolation)

    def config_for(self, channel_id: str, folder: Path) -> bytes | None:
        """An own worker's configuration with its identity, as it is handed over."""
        if self.config is None:
            return None
        return json.dumps({**self.config, "id": channel_id, "folder": str(folder)}, ensure_ascii=False).encode()

    def request_for(self, channel_id: str, files: ChannelFiles) -> SpawnRequest:
        """What the spawner is asked for, without the configuration."""
        folder, property_path = files.folder, files.property_file
        ours = property_path if self.foreign else files.handed_out
        read = (*self.isolation.read, *([] if ours is None else [str(ours)]))
        return SpawnRequest(
            id=channel_id,
            folder=str(folder),
            environment=self.environment_for(channel_id, folder),
            limits=self.limits,
            command=self.command_for(channel_id, property_path),
            cwd=self.cwd,
            preload=self.preload,
            isolation=self.isolation if self.isolation.level == BASIC else replace(self.isolation, read=read),
        )

    def environment_for(self, channel_id: str, folder: Path) -> dict[str, str]:
        """The worker's whole environment."""
        temporary = {} if self.isolation.level == BASIC else {"TMPDIR": str(folder / TEMPORARY)}
        return {**self.environment, **temporary, CHANNEL_VARIABLE: channel_id, FOLDER_VARIABLE: str(folder)}

    def command_for(self, channel_id: str, property_path: Path) -> tuple[str, ...] | None:
        """A foreign worker's command line with its places filled in; no shell is involved."""
        if self.command is None:
            return None
        places = {"{property_file}": str(property_path), "{channel_id}": channel_id}
        return tuple(_filled(part, places) for part in self.command)


def _filled(text: str, places: Mapping[str, str]) -> str:
    for place, value in places.items():
        text = text.replace(place, value)
    return text


def tightened(base: Limits, options: GraphOptions, wish: Limits) -> Limits:
    """The limits of a channel: the server's, the graph's over them, and a request's, which may only be lower.

    Raises Refusal(BODY_INVALID) that names the limit, the wish and what is allowed.
    """
    allowed = {**asdict(base), **options.limits}
    for name, value in asdict(wish).items():
        if value is None:
            continue
        most = allowed[name]
        if most is not None and value > most:
            raise Refusal(Cause.BODY_INVALID, f"limits.{name} is {value}; at most {most} is allowed for this graph")
        allowed[name] = value
    return Limits(**allowed)


class Preparation:
    """Prepares starts. Everything it needs is given once; `prepare` reads the property file anew when it changed."""

    def __init__(
        self, settings: Settings, catalog: GraphCatalog, ports: PortAllocator, environ: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._ports = ports
        self._environ = environ
        self._preloads = {point.name: point.value for point in entry_points(group=PRELOADS)}
        self.renew()

    def renew(self) -> None:
        """Take note of settings, and of an environment, that have changed."""
        settings = self._settings
        self._environment = {
            **choose(self._environ, settings.worker_env),
            INSTANCE_VARIABLE: instance_of(settings.state_dir),
        }
        self._confinement = Confinement(settings)
        self._base = Limits(
            memory_bytes=settings.worker_memory_bytes,
            processes=settings.worker_processes,
            cpu_weight=settings.worker_cpu_weight,
            open_files=settings.worker_open_files,
            file_bytes=settings.worker_file_bytes,
            cpu_seconds=settings.worker_cpu_seconds,
        )

    def prepare(self, request: StartRequest) -> Plan:
        """The plan of one start; its port, if any, is claimed and must be released. Raises Refusal."""
        selection = self._catalog.select(request.graph_name)
        limits = tightened(self._base, selection.options, request.limits)
        token = self._token(request.channel_name) if selection.needs_token else ""
        port = self._ports.claim() if selection.needs_port else 0
        try:
            effective = selection.prepare(
                StartParameters(request.channel_name, request.user_uid, request.bot_uid, token, port),
                request.properties,
                overridable=self._settings.overridable,
            )
            warnings = effective.warnings
            command = selection.options.command or self._settings.worker_command
            if command is not None:
                cwd = str((self._settings.app_dir / (selection.options.cwd or ".")).resolve())
                document, variables = effective.for_command(self._environ, self._settings.missing_env)
                return Plan(
                    foreign=True,
                    environment={**self._environment, **variables},
                    limits=limits,
                    warnings=warnings,
                    command=command,
                    cwd=cwd,
                    isolation=self._confinement.foreign(
                        selection.options.isolation,
                        command,
                        cwd,
                        selection.options.cwd is not None,
                        {**self._environment, **variables},
                    ),
                    property_file=dump_document(document),
                    port=port,
                    max_workers=selection.options.max_workers,
                )
            document = effective.for_worker(self._environ, self._settings.missing_env)
            return Plan(
                foreign=False,
                environment=self._environment,
                limits=limits,
                warnings=warnings,
                preload=self._preload(document),
                isolation=self._confinement.own(selection.options.isolation),
                config={
                    "channel": request.channel_name,
                    "graph": document,
                    "graph_name": request.graph_name,
                    "unknown_addons": self._settings.unknown_addons,
                    "beat_seconds": self._settings.beat_seconds,
                    "start_seconds": self._settings.worker_start_timeout_seconds * OWN_SHARE,
                },
                port=port,
                max_workers=selection.options.max_workers,
            )
        except Refusal:
            self._ports.release(port)
            raise

    def _token(self, channel_name: str) -> str:
        """For uid 0 (wire/ten.md section 9). A graph may be run without Agora: then its token stays empty."""
        if not self._settings.agora_app_id:
            return ""
        certificate = self._settings.agora_app_certificate
        return build_token(
            self._settings.agora_app_id, "" if certificate is None else certificate.get_secret_value(), channel_name, 0
        )

    def _preload(self, document: dict[str, Any]) -> tuple[str, ...]:
        if not self._preloads:
            return ()
        addons = {node.get("addon") for entry in entries_of(document) for node in nodes_of(entry)}
        return tuple(sorted({self._preloads[addon] for addon in addons if addon in self._preloads}))
