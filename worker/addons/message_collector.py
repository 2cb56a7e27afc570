"""`message_collector`: gathers the pieces of texts into the transcript of what was said."""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from worker.agent import Context, Kind, Message, Node

ROLES: Final = ("user", "assistant")
MAX_STREAMS: Final = 64
MAX_CHARACTERS: Final = 65536
MAX_SEGMENTS: Final = 200
MAX_TRANSCRIPT: Final = 2 * MAX_CHARACTERS  # characters; as JSON they fit a frame, whatever they are


class Piece(NamedTuple):
    """One ``text_data`` message. A piece that is not final stands for itself only until the next one comes."""

    text: str
    role: str
    stream: int
    final: bool
    ended: bool

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> "Piece":
        """The piece with these properties; raises TypeError or ValueError for one that is none."""
        text, stream = properties.get("text", ""), properties.get("stream_id", 0)
        if not isinstance(text, str) or not isinstance(stream, int):
            raise TypeError(
                f"text_data needs a string 'text' and an integer 'stream_id', not {text!r:.100}, {stream!r:.100}"
            )
        if (role := properties.get("role", "assistant")) not in ROLES:
            raise ValueError(f"the role of text_data is one of {', '.join(ROLES)}, not {role!r:.100}")
        final = properties.get("is_final", True) is True
        return cls(text, role, stream, final, ended=properties.get("end_of_segment") is True)


class MessageCollector(Node):
    """Gathers ``text_data`` messages, one text for each ``role`` and ``stream_id``, into the transcript.

    A final piece (``is_final``) stays, another one stands for itself only until the next piece comes; a piece with
    ``end_of_segment`` ends the text. Each piece is answered by a ``data`` message with the text so far. A text that has
    ended is told outside, as the signal ``transcript``, unless it is empty, and kept for the command ``transcript``.
    Of a text over 65,536 characters the oldest are dropped; of more than 64 texts under way the one begun first is. The
    transcript keeps the latest 200 texts, of 131,072 characters in all.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._texts: dict[tuple[str, int], str] = {}
        self._transcript: deque[dict[str, str]] = deque(maxlen=MAX_SEGMENTS)
        context.handle("transcript", self.transcript)

    async def on_message(self, message: Message) -> None:
        """Take one piece; other messages end here."""
        if message.kind is not Kind.DATA or message.name != "text_data":
            return
        piece = Piece.of(message.properties)
        text = self._gather(piece)
        values = {"text": text, "role": piece.role, "stream_id": piece.stream}
        await self.context.send(
            Message(kind=Kind.DATA, name="data", properties={**values, "end_of_segment": piece.ended})
        )
        if piece.ended and text:
            self._keep({"role": piece.role, "text": text})
            await self.context.signal("transcript", **values)

    async def transcript(self, _payload: Mapping[str, Any]) -> dict[str, Any]:
        """The latest texts that have ended, oldest first."""
        return {"transcript": list(self._transcript)}

    def _gather(self, piece: Piece) -> str:
        """The text with this piece at its end."""
        key = (piece.role, piece.stream)
        text = self._texts.get(key, "") + piece.text
        if len(text) > MAX_CHARACTERS:
            text = text[-MAX_CHARACTERS:]
        if piece.ended:
            self._texts.pop(key, None)
        elif piece.final:
            self._texts[key] = text
            if len(self._texts) > MAX_STREAMS:
                del self._texts[next(iter(self._texts))]
        return text

    def _keep(self, segment: dict[str, str]) -> None:
        self._transcript.append(segment)
        while sum(len(kept["text"]) for kept in self._transcript) > MAX_TRANSCRIPT:
            self._transcript.popleft()
