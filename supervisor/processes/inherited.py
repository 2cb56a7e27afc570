"""What an earlier control server left with the spawner: channels that live, and endings nobody has taken note of."""

from pathlib import Path
from typing import Any, Final

from supervisor.processes import journal
from worker.spawn import Receipt

# What the spawner may say of a channel whose control server is gone.
INHERITED_EVENTS: Final = frozenset({"live", "spawned", "spawn_failed", "exit", "gone", "unkillable"})
FINAL: Final = frozenset({"gone", "spawn_failed"})


class Inherited:
    """One channel's process tree, as the spawner has told of it so far."""

    def __init__(self, listed: dict[str, Any]) -> None:
        """`listed` is its ``live`` or ``gone`` message."""
        self.id: str = listed["id"]
        self.pid: int = listed.get("pid", 0)
        self.start_time: int = listed.get("start_time", 0)
        self.status: int | None = listed.get("status")
        self.receipt: Receipt | None = None
        self.cause: str = listed.get("cause", "")  # why its spawner ended it, when that ended as well
        self._oom = listed.get("oom") is True
        self._messages: list[dict[str, Any]] = []
        self.over = False  # nothing of it is left
        self.hear(listed)

    def hear(self, message: dict[str, Any]) -> None:
        """Take note of what has happened to it since."""
        match message["ev"]:
            case "gone":
                self.receipt = Receipt.from_dict(message["receipt"])
                self.status = self.receipt.status
            case "exit":
                self.status = message["status"]
            case "spawned":
                self.pid, self.start_time = message["pid"], message["start_time"]
        self.over = self.over or message["ev"] in FINAL
        if message["ev"] != "live":
            self._messages.append(message)

    @property
    def told(self) -> list[dict[str, Any]]:
        """What whoever adopts it has to hear: at least that its worker has ended, when it has."""
        heard = {message["ev"] for message in self._messages}
        if self.status is None or "exit" in heard:
            return list(self._messages)
        oom = self._oom or (self.receipt is not None and self.receipt.oom)
        return [{"ev": "exit", "id": self.id, "status": self.status, "oom": oom}, *self._messages]


def ended_with_their_spawner(state_dir: Path) -> dict[str, Inherited]:
    """The channels of a spawner that ended by itself: it has put on record how. Blocks."""
    return {
        channel_id: Inherited({"ev": "gone", "id": channel_id, "receipt": ending.receipt, "cause": ending.cause})
        for channel_id, ending in journal.read_endings(state_dir).items()
    }
