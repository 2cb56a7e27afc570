"""What all channels share."""

from dataclasses import dataclass

from supervisor.processes.logs import LogWriter
from supervisor.processes.spawner import SpawnerClient
from supervisor.settings import Settings


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The settings, the spawner's client and the thread that writes the logs."""

    settings: Settings
    spawner: SpawnerClient
    writer: LogWriter
