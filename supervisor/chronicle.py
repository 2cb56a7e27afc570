"""What happens to channels, told to those who want to know: the feed of ``GET /events``, and the ledger."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from supervisor.channels.feed import Feed
from supervisor.store.records import (
    ChannelClaimed,
    ChannelEnded,
    ChannelPinged,
    ChannelReady,
    LedgerEntry,
    TurnCounted,
)

MOST_EVENTS: Final = 4096


class Chronicle:
    """Every event in the life of any channel, in order."""

    def __init__(self, note: Callable[[LedgerEntry], None]) -> None:
        """`note` puts an entry into the ledger; it does not wait."""
        self.feed = Feed(f"{time.time_ns():x}", MOST_EVENTS)
        self._note = note
        self._numbers = 0

    def tell(self, kind: str, fields: Mapping[str, Any]) -> None:
        """A channel was ``claimed``, is ``ready``, ``stopping`` or ``gone``; a turn ``turn_begun``, ``turn_ended``."""
        at = time.time()
        self._numbers += 1
        self.feed.publish(kind, {**fields, "at": at}, self._numbers)
        for entry in _ENTRIES.get(kind, ()):
            if (noted := entry(fields, at)) is not None:
                self._note(noted)


def _claimed(fields: Mapping[str, Any], at: float) -> LedgerEntry:
    return ChannelClaimed(
        channel=fields["id"],
        at=at,
        name=fields["channel"],
        graph=fields["graph"],
        user=fields["user"],
        session=fields["session"],
        source=fields["source"],
    )


def _pinged(fields: Mapping[str, Any], _: float) -> LedgerEntry | None:
    last = fields["last_ping_at"]
    return None if last is None else ChannelPinged(channel=fields["id"], at=last, count=fields["pings"])


def _ended(fields: Mapping[str, Any], at: float) -> LedgerEntry:
    return ChannelEnded(
        channel=fields["id"],
        at=at,
        **{name: fields[name] for name in ("cause", "detail", "status", "processes", "killed", "seconds")},
    )


_ENTRIES: Final[Mapping[str, tuple[Callable[[Mapping[str, Any], float], LedgerEntry | None], ...]]] = {
    "claimed": (_claimed,),
    "ready": (lambda fields, at: ChannelReady(channel=fields["id"], at=at, pid=fields["pid"]),),
    "turn_begun": (lambda fields, at: TurnCounted(channel=fields["id"], at=at),),
    "gone": (_pinged, _ended),
}
