"""What all attachments take together, and those of each user: counted before anything is kept. Pure."""

from collections.abc import Mapping

from supervisor.causes import Cause, Refusal


class Books:
    """Bytes taken by each owner; at most `most_each`, and `most` of all."""

    def __init__(self, most_each: int, most: int) -> None:
        self._most_each = most_each
        self._most = most
        self._taken: dict[str, int] = {}
        self._total = 0

    def open(self, taken: Mapping[str, int]) -> None:
        """Begin with what was taken before."""
        self._taken = dict(taken)
        self._total = sum(taken.values())

    def taken(self, owner: str) -> int:
        """What an owner has taken."""
        return self._taken.get(owner, 0)

    @property
    def total(self) -> int:
        """What all have taken."""
        return self._total

    def take(self, owner: str, amount: int) -> None:
        """Take; raises Refusal(UPLOAD_FAILED) where it does not fit, and nothing is taken then."""
        if self.taken(owner) + amount > self._most_each:
            raise Refusal(
                Cause.UPLOAD_FAILED,
                f"your attachments take {self.taken(owner)} of {self._most_each} bytes; {amount} more do not fit",
            )
        if self._total + amount > self._most:
            raise Refusal(Cause.UPLOAD_FAILED, "the server has no room for more attachments")
        self.add(owner, amount)

    def add(self, owner: str, amount: int) -> None:
        """Count what is taken in any case."""
        self._taken[owner] = self.taken(owner) + amount
        self._total += amount

    def give(self, owner: str, amount: int) -> None:
        """Give back."""
        self.add(owner, -amount)
        if self._taken[owner] <= 0:
            del self._taken[owner]
