"""`message_collector`: gathers the pieces of texts and hands on each text as far as it is known."""

from typing import Final

from worker.agent import Context, Kind, Message, Node

MAX_STREAMS: Final = 64
MAX_CHARACTERS: Final = 65536


class MessageCollector(Node):
    """Gathers ``text_data`` messages, one text for each ``stream_id``, and sends ``data`` messages on.

    A final piece (``is_final``) stays, another one stands for itself only until the next piece comes; a piece with
    ``end_of_segment`` ends the text. Each piece is answered by a ``data`` message with the text so far. Of a text over
    65,536 characters the oldest are dropped; of more than 64 streams the one begun first is.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._texts: dict[int, str] = {}

    async def on_message(self, message: Message) -> None:
        """Take one piece; other messages end here."""
        if message.kind is not Kind.DATA or message.name != "text_data":
            return
        stream, piece = message.properties.get("stream_id", 0), message.properties.get("text", "")
        if not isinstance(piece, str) or not isinstance(stream, int):
            raise TypeError(
                f"text_data needs a string 'text' and an integer 'stream_id', not {piece!r:.100}, {stream!r:.100}"
            )
        ended = message.properties.get("end_of_segment") is True
        text = (self._texts.get(stream, "") + piece)[-MAX_CHARACTERS:]
        if ended:
            self._texts.pop(stream, None)
        elif message.properties.get("is_final", True) is True:
            self._texts[stream] = text
            if len(self._texts) > MAX_STREAMS:
                del self._texts[next(iter(self._texts))]
        await self.context.send(
            Message(
                kind=Kind.DATA, name="data", properties={"text": text, "stream_id": stream, "end_of_segment": ended}
            )
        )
