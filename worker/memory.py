"""The state of an agent between its turns: a JSON object, told when it changed. Pure."""

from typing import Any, Final

import orjson

from worker.events import ResponseError

MOST_BYTES: Final = 256 * 1024

State = dict[str, Any]


class Memory:
    """The state as the last turn left it, and as it was last told; what cannot be told is forgotten."""

    __slots__ = ("_told", "value")

    def __init__(self) -> None:
        self.value: State = {}
        self._told = b"{}"

    def restore(self, state: State) -> None:
        """Begin with the state that was stored."""
        self.value = state
        self._told = orjson.dumps(state)

    def take(self, state: Any) -> tuple[bytes, State | None]:
        """What a turn leaves: a mark for `told`, and the state if it is another than the one told last.

        Raises ResponseError for what is no JSON object or too large; the state is then the one told last again.
        """
        try:
            mark = _mark(state)
        except ResponseError:
            self.value = orjson.loads(self._told)
            raise
        self.value = state
        return mark, (state if mark != self._told else None)

    def told(self, mark: bytes) -> None:
        """The state with this mark is on its way to the store."""
        self._told = mark


def _mark(state: Any) -> bytes:
    if not isinstance(state, dict):
        raise ResponseError(f"the state is an object, not {type(state).__name__}: {state!r:.100}")
    try:
        mark = orjson.dumps(state)
    except TypeError as error:
        raise ResponseError(f"the state cannot be written as JSON: {error}") from error
    if len(mark) > MOST_BYTES:
        raise ResponseError(f"the state has {len(mark)} bytes; at most {MOST_BYTES} are allowed")
    return mark
