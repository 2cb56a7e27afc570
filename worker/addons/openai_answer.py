"""One streamed answer of a model, put together from its chunks. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worker.addons.openai_errors import AnswerInvalidError, ContentFilteredError, StreamBrokenError
from worker.addons.openai_messages import Chat, call_of
from worker.agent import Text, Thought

MAX_CHARACTERS: Final = 4 * 1024 * 1024  # of one answer's text
MAX_ARGUMENTS: Final = 128 * 1024  # characters of all its calls
MAX_CALLS: Final = 64
# Where servers put what a model thinks; the first that is there counts, since some fill several.
THOUGHTS: Final = ("reasoning_content", "reasoning")


@dataclass(slots=True)
class Call:
    """A tool call as far as it is known."""

    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """Its arguments so far, JSON once the answer is complete."""
        return "".join(self.pieces) or "{}"


class Answer:
    """Takes the chunks of one stream, in order. Only the first choice is looked at; nobody asks for more.

    Calls that come without an id get one that begins with `prefix`.
    """

    def __init__(self, prefix: str = "call") -> None:
        self._prefix = prefix
        self.finish = ""  # why it ended, as the server says; empty: not ended
        self.model = ""
        self.calls: list[Call] = []
        self.usage: dict[str, int] = {}
        self.begun = False  # something of it is there, so that the request must not be repeated
        self._texts: list[str] = []
        self._size = 0  # characters of texts and thoughts
        self._arguments = 0  # characters of all calls' arguments
        self._slots: dict[int, Call] = {}

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def cut(self) -> bool:
        """Whether it ended because it was as long as it may be."""
        return self.finish == "length"

    def add(self, chunk: Any) -> list[Text | Thought]:
        """What a chunk adds to text and thoughts. Raises AnswerInvalidError for one that is not the protocol."""
        try:
            return list(self._add(chunk))
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            raise AnswerInvalidError(f"a chunk that is none ({error}): {chunk!r:.200}") from None

    def complete(self) -> None:
        """Check that the answer is whole and may be used; calls without an id get one.

        Raises StreamBrokenError when its end never came, ContentFilteredError, and AnswerInvalidError for calls that
        were cut off or are nameless.
        """
        if not self.finish:
            raise StreamBrokenError("the answer ended without saying that it is complete; what was said stands")
        if self.finish == "content_filter":
            raise ContentFilteredError("the model server's content filter ended the answer; what was said stands")
        if self.calls and self.cut:
            raise AnswerInvalidError("the answer was cut off in a tool call; allow more with max_tokens")
        if any(not call.name for call in self.calls):
            raise AnswerInvalidError("a tool call without the name of a tool")
        for number, call in enumerate(self.calls):
            call.id = call.id or f"{self._prefix}_{number}"

    def as_message(self) -> Chat:
        """The answer as the model is shown it later."""
        message: Chat = {"role": "assistant", "content": self.text or None}
        if self.calls:
            message["tool_calls"] = [call_of(call.id, call.name, call.arguments) for call in self.calls]
        return message

    def _add(self, chunk: Mapping[str, Any]) -> Iterator[Text | Thought]:
        self.model = chunk.get("model") or self.model
        if usage := chunk.get("usage"):
            self.usage = counts(usage)
        for choice in chunk.get("choices") or ():
            if (choice.get("index") or 0) != 0:
                continue
            yield from self._delta(choice.get("delta") or {})
            if finish := choice.get("finish_reason"):
                self.finish, self.begun = str(finish), True

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[Text | Thought]:
        if thought := next((text for name in THOUGHTS if (text := delta.get(name))), ""):
            yield Thought(self._checked(thought))
        for name in ("content", "refusal"):
            if text := delta.get(name):
                self._texts.append(self._checked(text))
                yield Text(text)
        for number, call in enumerate(delta.get("tool_calls") or ()):
            self._call(call, number)

    def _checked(self, text: Any) -> str:
        if not isinstance(text, str):
            raise TypeError("its text is no string")
        self._size += len(text)
        if self._size > MAX_CHARACTERS:
            raise AnswerInvalidError(f"an answer of more than {MAX_CHARACTERS} characters")
        self.begun = True
        return text

    def _call(self, piece: Mapping[str, Any], number: int) -> None:
        """A piece of a call. The index tells which, and a new id that a new one begins: some servers say 0 for all."""
        self.begun = True
        index = piece.get("index")
        slot = number if index is None else int(index)
        call = self._slots.get(slot)
        if call is None or (piece.get("id") and call.id not in ("", piece["id"])):
            if len(self.calls) >= MAX_CALLS:
                raise AnswerInvalidError(f"more than {MAX_CALLS} tool calls in one answer")
            call = self._slots[slot] = Call()
            self.calls.append(call)
        function = piece.get("function") or {}
        call.id = call.id or str(piece.get("id") or "")
        call.name = call.name or str(function.get("name") or "")
        text = function.get("arguments") or ""
        if not isinstance(text, str):
            raise TypeError("the arguments of its call are no string")
        call.pieces.append(text)
        self._arguments += len(text)
        if self._arguments > MAX_ARGUMENTS:
            raise AnswerInvalidError(f"tool calls with more than {MAX_ARGUMENTS} characters of arguments")


def counts(usage: Mapping[str, Any]) -> dict[str, int]:
    """A usage chunk's counts under our names; those that are not there are left out."""
    details = {
        "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        "reasoning_tokens": (usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
    }
    found = {
        "input_tokens": usage.get("prompt_tokens") or 0,
        "output_tokens": usage.get("completion_tokens") or 0,
        **details,
    }
    numbers = {name: int(value) for name, value in found.items() if value is not None}
    total = usage.get("total_tokens") or numbers["input_tokens"] + numbers["output_tokens"]
    return {**numbers, "total_tokens": int(total)}
