"""The objects of AgentScope's API: responses, messages and contents (wire/agentscope.md sections 5 and 6). Pure."""

from collections.abc import Callable
from typing import Any, Final

from supervisor.causes import Cause
from supervisor.http.dialects.agentscope_errors import code_of
from supervisor.http.dialects.answer import Answer, Part
from supervisor.http.envelope import encode, shorten
from supervisor.turns.transcript import Event

SOURCE: Final = "agentscope"  # what turns of this API are marked with
TYPES: Final = {"text": "message", "thought": "reasoning", "call": "plugin_call"}
RESULT: Final = "plugin_call_output"
MOST_MESSAGE: Final = 500  # characters of an error's text, which is told twice in one frame

Object = dict[str, Any]


class Reply:
    """One reply: what it and its messages are called, and its response as an object."""

    def __init__(self, response_id: str, session: str, created_at: float, new_id: Callable[[], str]) -> None:
        """`created_at` in seconds of the epoch; `new_id` makes the id of a message."""
        self.id = response_id
        self.session = session
        self.new_id = new_id
        self.answer_id = new_id()  # of the first text, known before there is any
        self._created_at = created_at
        self._has_text = False
        self._messages: list[tuple[str, Part, bool]] = []  # as they began: id, part, whether it is a call's result

    def begun(self, part: Part) -> str:
        """The id of the message of a part that begins."""
        first = part.kind == "text" and not self._has_text
        self._has_text = self._has_text or first
        return self._enter(self.answer_id if first else self.new_id(), part, is_result=False)

    def result(self, part: Part) -> str:
        """The id of the message with a call's result."""
        return self._enter(self.new_id(), part, is_result=True)

    def response(self, sequence: int, status: str, output: list[Object], **more: Any) -> Object:
        """A response event; `more` are fields that are not null."""
        return {
            "sequence_number": sequence,
            "object": "response",
            "status": status,
            "error": None,
            "id": self.id,
            "created_at": int(self._created_at),
            "completed_at": None,
            "output": output,
            "usage": None,
            "session_id": self.session,
        } | more

    def begins(self, sequence: int, status: str) -> Object:
        """A response event before there is any answer: its message is there, and empty."""
        part = {"object": "content", "type": "text", "index": 0, "delta": True, "msg_id": self.answer_id, "text": ""}
        return self.response(sequence, status, [message(self.answer_id, "message", "created", [part])])

    def ends(self, sequence: int, answer: Answer, last: Event) -> Object:
        """The last response event: all messages in order, complete."""
        status, error = how_it_ended(last)
        more: Object = {"error": error, "completed_at": int(self._created_at + last.get("ms", 0.0) / 1000)}
        more["usage"] = answer.usage
        if reason := answer.incomplete:
            more["incomplete_details"] = {"reason": reason}
        return self.response(sequence, status, self._output(), **more)

    def _enter(self, message_id: str, part: Part, *, is_result: bool) -> str:
        if part.kept:
            self._messages.append((message_id, part, is_result))
        return message_id

    def _output(self) -> list[Object]:
        if not self._messages:
            return [message(self.answer_id, "message", "completed", [content(self.answer_id, text="")])]
        output = [
            message(name, RESULT if is_result else TYPES[part.kind], "completed", [whole(name, part, is_result)])
            for name, part, is_result in self._messages
        ]
        output[0]["content"][0].setdefault("text", "")  # some read it whatever the part is
        return output


def message(message_id: str, kind: str, status: str, parts: list[Object] | None) -> Object:
    """A message."""
    role = "tool" if kind == RESULT else "assistant"
    return {"object": "message", "status": status, "id": message_id, "type": kind, "role": role, "content": parts}


def content(message_id: str, **payload: Any) -> Object:
    """The one part of a message, complete; `payload` is its text or its data."""
    [kind] = payload
    head = {"object": "content", "status": "completed", "type": kind, "index": 0, "delta": False, "msg_id": message_id}
    return head | payload


def whole(message_id: str, part: Part, is_result: bool) -> Object:
    """A part of the answer, or a call's result, as the one part of a message."""
    if part.kind != "call":
        return content(message_id, text=part.text)
    call = part.call
    data = {"call_id": call["id"], "name": call["name"]}
    if not is_result:
        return content(message_id, data=data | {"arguments": part.arguments})
    failed = {"failed": True} if call["failed"] else {}
    return content(message_id, data=data | {"output": encode(call["output"]).decode()} | failed)


def how_it_ended(last: Event) -> tuple[str, dict[str, str] | None]:
    """The status of the response, and its error if that is ``failed``."""
    if last["type"] == "final":
        return "completed", None
    cause = Cause(last["cause"])
    if cause is Cause.TURN_CANCELLED:
        return "canceled", None
    return "failed", {"code": code_of(cause), "message": shorten(last["message"], MOST_MESSAGE)}
