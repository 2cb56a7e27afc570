"""What attachments take while they arrive: of callers that are known, and apart from it of those that are not so far.

Many clients send their key last. Until then nobody knows them, so whoever has no key must not hold what they need.
"""

from collections import Counter
from typing import Final

from supervisor.causes import Cause, Refusal
from supervisor.http.allowance import Allowance

SHARES: Final = 4  # of what unknown callers have together: one address has one of them
FULL: Final = "too many attachments arrive now; try again later"  # no number: the others' uploads are not told of


class Arrivals:
    """The bytes of all forms that arrive."""

    def __init__(self, most: int, request_bytes: int) -> None:
        """At most `most` of either kind of callers; one address may send a whole request in any case."""
        self.known = Allowance(most, "attachments")
        self.unknown = Allowance(most, "attachments")
        self.of_address: Counter[str] = Counter()  # of unknown callers
        self.most_each = max(most // SHARES, min(most, request_bytes))


class Arrival:
    """One form's part of it. `clear` at the end."""

    def __init__(self, arrivals: Arrivals, address: str) -> None:
        """Its caller is not known so far."""
        self._all = arrivals
        self._address = address
        self._size = 0
        self.known = False

    def know(self) -> None:
        """It is known now who sends it. Raises Refusal(UPLOAD_FAILED) when those who are known have no room for it."""
        if not self.known:
            _take(self._all.known, self._size)
            self._give_unknown(self._size)
            self.known = True

    def take(self, amount: int) -> None:
        """Take; raises Refusal(UPLOAD_FAILED)."""
        if self.known:
            _take(self._all.known, amount)
        else:
            if self._all.of_address[self._address] + amount > self._all.most_each:
                raise Refusal(Cause.UPLOAD_FAILED, FULL)
            _take(self._all.unknown, amount)
            self._all.of_address[self._address] += amount
        self._size += amount

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        if self.known:
            self._all.known.give(amount)
        else:
            self._give_unknown(amount)
        self._size -= amount

    def clear(self) -> None:
        """Give back all of it."""
        self.give(self._size)

    def _give_unknown(self, amount: int) -> None:
        self._all.unknown.give(amount)
        left = self._all.of_address[self._address] - amount
        if left:
            self._all.of_address[self._address] = left
        else:
            del self._all.of_address[self._address]


def _take(allowance: Allowance, amount: int) -> None:
    try:
        allowance.take(amount)
    except Refusal as refusal:
        raise Refusal(refusal.cause, FULL) from None
