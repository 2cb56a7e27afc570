"""How many turns a key may ask in a minute: a window that slides. Pure."""

from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 60.0
MOST_KEYS: Final = 10_000  # that are remembered though they have not asked for a minute


class Rates:
    """The turns of the last minute, by key."""

    def __init__(self) -> None:
        self._asked: dict[str, deque[float]] = {}

    def take(self, key: str, most: int, now: float) -> float:
        """Count a turn at the monotonic time `now` unless it is one too many; seconds until one may be asked again.

        0.0: it may, and was counted.
        """
        if len(self._asked) >= MOST_KEYS:
            self._asked = {
                name: times for name, times in self._asked.items() if times and times[-1] > now - WINDOW_SECONDS
            }
        asked = self._asked.setdefault(key, deque())
        while asked and asked[0] <= now - WINDOW_SECONDS:
            asked.popleft()
        if len(asked) >= most:
            return asked[len(asked) - most] + WINDOW_SECONDS - now
        asked.append(now)
        return 0.0
