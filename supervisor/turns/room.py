"""Room for one more channel when all slots are taken: who waits for which channel that ends, and who is evicted.

Each channel that ends makes room for one, so each has one at most who waits for it: no two wait for the same slot, and
nobody waits where none gets free.
"""

import asyncio
from collections.abc import Callable
from typing import Final
from weakref import WeakSet

from supervisor.causes import Refusal
from supervisor.channels.channel import Channel
from supervisor.channels.lifecycle import State
from supervisor.channels.table import ChannelTable
from supervisor.settings import Settings

Fits = Callable[[Channel], bool]  # whether a channel's end makes the room that is wanted

SOON_SECONDS: Final = 1.0  # for a channel that ends anyway, before a session is evicted that may be used again
EVICTION_SECONDS: Final = 5.0  # beyond the grace


class Room:
    """The slots of one table that are about to be free."""

    def __init__(self, table: ChannelTable, evict: Callable[[Fits], Channel | None], settings: Settings) -> None:
        """`evict` ends the channel of an idle session, one that fits, and returns it, or None if there is none."""
        self._table = table
        self._evict = evict
        self._settings = settings
        self._leaving: set[Channel] = set()  # told to stop, whether or not they know
        self._awaited: set[Channel] = set()
        self._stuck: WeakSet[Channel] = WeakSet()  # somebody has waited for them in vain

    def leaves(self, channel: Channel) -> None:
        """The channel is about to be stopped."""
        self._leaving.add(channel)

    def left(self, channel: Channel) -> None:
        """It has ended, or cannot be ended."""
        self._leaving.discard(channel)

    async def make(self, fits: Fits) -> bool:
        """Wait until a channel that fits is gone that ends, or is made to end; whether there was one."""
        ending = self._ending(fits)
        if ending is not None and await self._is_gone(ending, SOON_SECONDS):
            return True
        channel = self._evict(fits) or self._ending(fits)
        if channel is None:
            return False
        gone = await self._is_gone(channel, EVICTION_SECONDS + self._settings.worker_stop_grace_seconds)
        if not gone:
            self._stuck.add(channel)
        return gone

    def _ending(self, fits: Fits) -> Channel | None:
        """The oldest channel that fits, ends, and for which nobody waits."""
        for channel in self._table.all():
            ends = channel.state is State.STOPPING or channel in self._leaving
            taken = channel in self._awaited or channel in self._stuck
            if ends and not taken and fits(channel):
                return channel
        return None

    async def _is_gone(self, channel: Channel, seconds: float) -> bool:
        self._awaited.add(channel)
        try:
            async with asyncio.timeout(seconds):
                await channel.gone()
        except (TimeoutError, Refusal):  # it does not end: a matter of its own
            return False
        finally:
            self._awaited.discard(channel)
        return True
