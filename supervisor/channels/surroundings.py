"""What all channels share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.attachments.handout import Handouts
from supervisor.channels.files import ChannelFiles
from supervisor.channels.preparation import Plan
from supervisor.processes.logs import LogWriter
from supervisor.processes.marks import Marks
from supervisor.processes.rota import Rota
from supervisor.processes.spawner import SpawnerClient
from supervisor.settings import Settings
from worker.spawn import BASIC

# Tells of an event in a channel's life: its name, and its fields (docs/http.md, "Events").
Announce = Callable[[str, Mapping[str, Any]], None]


def unheard(_kind: str, _fields: Mapping[str, Any]) -> None:
    """Where nobody listens."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is not a channel's own.

    The settings, the name of the state folder's instance, the spawner's client, the thread that writes the logs, the
    order in which workers are read, the marks of pings, this supervisor's epoch on the pipes (later than any before
    it), who hears of the channels' lives, and where confined workers find the files that they are given. `recorded`
    calls back once all that was announced so far is in the ledger; `leave` gets what removes what could not be removed.
    """

    settings: Settings
    instance: str
    spawner: SpawnerClient
    writer: LogWriter
    rota: Rota
    marks: Marks
    epoch: int
    recorded: Callable[[Callable[[], None]], None]
    leave: Callable[[Callable[[], None]], None]
    announce: Announce = unheard
    handouts: Handouts | None = None

    def files_of(self, channel_id: str, plan: Plan, log_file: Path, property_file: Path) -> ChannelFiles:
        """What a channel has on the disk.

        Only a worker of ours has turns, with files to read; one that is not confined finds them where they lie.
        """
        handouts = None if plan.foreign or plan.isolation.level == BASIC else self.handouts
        handout = None if handouts is None else handouts.of(channel_id)
        return ChannelFiles(self.settings.state_dir, channel_id, log_file, property_file, handout)
