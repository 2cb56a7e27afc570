"""Text that goes from node to node: ``text_data`` messages along a graph's connections, and the chats they begin."""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from worker.events import Event, Text, as_fields
from worker.node import Context, Kind, Message, NodeBusyError
from worker.turn import CHAT, Turn
from worker.voice import Pace, perform

TEXT_DATA: Final = "text_data"
MOST_REMEMBERED: Final = 64  # messages of a conversation between nodes
MOST_STREAMS: Final = 64
MOST_HEARD: Final = 65536  # characters of one question


def text_data(text: str, *, role: str, stream: int = 0, ended: bool = False) -> Message:
    """A piece of a text, or its end."""
    properties = {"text": text, "is_final": True, "end_of_segment": ended, "stream_id": stream, "role": role}
    return Message(kind=Kind.DATA, name=TEXT_DATA, properties=properties)


class Passage:
    """Passes on what is said in a turn from outside.

    Nobody who is behind can fail the turn, or hold it up more than once: from then on nothing is passed on.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lost = False

    async def say(self, text: str, *, role: str = "assistant", ended: bool = False) -> None:
        """Pass on a piece, or the end of a text."""
        if self._lost:
            return
        try:
            await self._context.send(text_data(text, role=role, ended=ended))
        except NodeBusyError as error:
            self._lost = True
            self._context.log.warning("turn.not_passed_on", error=str(error))


class Conversation:
    """What an agent hears from other nodes and answers to them. It lives as long as the process, and no longer."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._heard: dict[int, str] = {}
        self._history: deque[dict[str, Any]] = deque(maxlen=MOST_REMEMBERED)
        self._state: dict[str, Any] = {}
        self._turns = 0

    def hear(self, message: Message) -> tuple[str, int] | None:
        """The question that is complete with this message, and its stream; None as long as there is none.

        Pieces that are not final are left out. One without ``end_of_segment`` is a question of its own. Raises
        TypeError for what is no text, ValueError for a question that is too long.
        """
        if message.kind is not Kind.DATA or message.name != TEXT_DATA:
            return None
        properties = message.properties
        text, stream = properties.get("text", ""), properties.get("stream_id", 0)
        if not isinstance(text, str) or not isinstance(stream, int):
            raise TypeError(
                f"text_data needs a string 'text' and an integer 'stream_id', not {text!r:.100}, {stream!r:.100}"
            )
        if properties.get("is_final", True) is not True:
            return None
        question = self._heard.pop(stream, "") + text
        if len(question) > MOST_HEARD:
            raise ValueError(f"a question of more than {MOST_HEARD} characters, which is the most")
        if properties.get("end_of_segment", True) is True:
            return (question, stream) if question.strip() else None
        self._heard[stream] = question
        if len(self._heard) > MOST_STREAMS:
            del self._heard[next(iter(self._heard))]
        return None

    async def answer(self, question: str, stream: int, chat: Callable[[Turn], Any]) -> None:
        """Let the agent chat, and send its text on as it comes; raises what the agent raises."""
        pace, said = Pace(), []

        async def emit(event: Event | str) -> None:
            text = event if isinstance(event, str) else event.text if isinstance(event, Text) else None
            if text is None:
                as_fields(event)  # nobody hears it, but it has to be an event
            else:
                said.append(text)
                await self._context.send(text_data(text, role="assistant", stream=stream))
            if pace.due:
                await pace.turn()

        self._turns += 1
        asked = {"role": "user", "content": question}
        request = {"messages": [asked], "history": list(self._history)}
        name = f"{self._context.node}-{self._turns}"
        turn = Turn(name, kind=CHAT, request=request, emit=emit, state=self._state)
        try:
            await perform(CHAT, chat(turn), emit)
            self._history += (asked, {"role": "assistant", "content": "".join(said)})
        finally:
            self._state = turn.state
            await self._context.send(text_data("", role="assistant", stream=stream, ended=True))
