"""What one worker is granted: by its graph, by its command, by what it needs of ours; and what it got, by the spawner.

What is never granted by the way: the state folder, logs, attachments, keys, the store, and the server's own settings.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supervisor.isolation import IsolationOptions
from supervisor.settings import Settings
from supervisor.sources import CONFIG, DOTENV
from supervisor.store.address import SqliteFile, parse_address
from worker.spawn import BASIC, Isolation

OF_SQLITE: Final = ("", "-wal", "-shm", "-journal")


class Confinement:
    """Makes the isolation of starts. `hidden` is what no folder around it grants."""

    def __init__(self, settings: Settings) -> None:
        self._level = settings.isolation
        self._app_dir = settings.app_dir
        store = parse_address(settings.store_url.get_secret_value())
        files = [Path(f"{store.path}{end}") for end in OF_SQLITE] if isinstance(store, SqliteFile) else []
        ours = (settings.state_dir, settings.log_path, settings.attachments_dir, settings.keys_file)
        names = (*ours, *files, Path(DOTENV), Path(CONFIG))
        self.hidden = tuple(dict.fromkeys(os.path.realpath(path) for path in names))
        self._fixed = (os.path.realpath(settings.property_file),)

    def own(self, options: IsolationOptions) -> Isolation:
        """Of a worker of ours."""
        return self._isolation(options)

    def foreign(
        self, options: IsolationOptions, command: Sequence[str], cwd: str, chosen: bool, environ: Mapping[str, str]
    ) -> Isolation:
        """Of a command that is run in `cwd`, which it may write to if the graph has `chosen` it."""
        read = [cwd, *_programs(command, cwd, environ.get("PATH", os.defpath))]
        return self._isolation(options, read, [cwd] if chosen else [])

    def _isolation(self, options: IsolationOptions, read: Sequence[str] = (), write: Sequence[str] = ()) -> Isolation:
        level = options.level or self._level
        if level == BASIC:
            return Isolation()
        return Isolation(
            level=level,
            read=(*read, *map(self._absolute, options.read)),
            write=(*write, *map(self._absolute, options.write)),
            hidden=self.hidden,
            fixed=self._fixed,
            connect_ports=options.connect_ports,
            bind_ports=options.bind_ports,
            network=options.network,
            unix_sockets=options.unix_sockets,
        )

    def _absolute(self, path: str) -> str:
        return str(self._app_dir / Path(path).expanduser())


def _programs(command: Sequence[str], cwd: str, path: str) -> list[str]:
    """The program, what else on its command line is there, and the folders that programs are looked for in."""
    program = shutil.which(command[0], path=path)
    named = [str(Path(cwd, word)) for word in command if "/" in word]
    folders = [folder for folder in path.split(os.pathsep) if folder.startswith("/")]
    return [name for name in (*([program] if program else []), *named, *folders) if os.access(name, os.F_OK)]


@dataclass(frozen=True, slots=True)
class Isolated:
    """What a channel's worker was to be isolated by, what it is isolated by, and what this machine has not for that."""

    asked: str
    got: str
    missing: tuple[str, ...] = ()
    refused: str = ""  # why there can be no such worker


def isolated(level: str, hello: Mapping[str, Any]) -> Isolated:
    """What the spawner that said `hello` makes of a level. Pure."""
    row = hello.get("isolation", {}).get("levels", {}).get(level)
    if row is None:
        return Isolated(level, BASIC, () if level == BASIC else ("the spawner does not know of isolation",))
    return Isolated(level, row["got"], tuple(row["missing"]), row["refused"])
