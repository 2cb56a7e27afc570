"""One turn as Reminix's clients read it: chunks of text and ``[DONE]``, or one object (wire/reminix.md). Pure.

The head of a stream waits for the first chunk, so that a failure before it has a status. What a stream has told
joined, and the answer in one piece, are the same text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web

from supervisor.causes import Cause
from supervisor.http.dialects.answer import TOOL_CALLS, function_call, handed
from supervisor.http.dialects.base import Manner
from supervisor.http.dialects.data_lines import DONE, safe
from supervisor.http.dialects.reminix_errors import failure
from supervisor.http.envelope import encode
from supervisor.http.replies import error_reply, json_reply
from supervisor.turns.requests import Kind
from supervisor.turns.transcript import Event, Transcript
from supervisor.turns.turn import Item, Turn, TurnEnding

INVALID: Final = TurnEnding(Cause.RESPONSE_INVALID)


@dataclass(frozen=True, slots=True)
class Form:
    """How the frames of one path look: templates for a piece of text and for an error; whether tools are told."""

    piece: bytes
    error: bytes
    tools: bool


SINGULAR: Final = Form(b'data: {"chunk": %b}\n\n', b'data: {"error": %b}\n\n', tools=False)
PLURAL: Final = Form(b'data: {"type":"text_delta","delta":%b}\n\n', b"event: error\ndata: %b\n\n", tools=True)


class Reminix:
    """One call of an agent. `kind` is the kind of its turn."""

    manner = Manner(first_seconds=None)

    def __init__(self, agent: str, kind: Kind, form: Form = SINGULAR, *, stream: bool = True) -> None:
        """Without a `stream` only the answer in one piece is wanted."""
        self._streams = stream
        self._agent = agent
        self._kind = kind
        self._form = form
        self._transcript = Transcript()
        self._has_text = False
        self._has_spoken = False  # also of tools, on the newer path

    def opening(self, turn: Turn) -> list[bytes]:
        """Nothing: a stream begins with what the agent says."""
        self._transcript = turn.transcript
        return []

    def events(self, items: list[Item]) -> Sequence[bytes]:
        """A frame for each piece of text; at the end ``[DONE]``, or an error. Nothing for an end that is no answer."""
        out: list[bytes] = []
        if not self._streams:
            return out
        piece = self._form.piece
        for item in items:
            event = item.event
            if event["type"] == "text":  # the hottest path
                if text := event["text"]:
                    self._has_text = True
                    out.append(piece % safe(orjson.dumps(text)))
            else:
                self._has_spoken = self._has_spoken or bool(out)
                self._rare(event, out)
        self._has_spoken = self._has_spoken or bool(out)
        return out

    def body(self, _: Turn, ending: TurnEnding) -> web.Response:
        """The answer in one piece, or why there is none."""
        if not ending.completed:
            return self._failed(ending)
        transcript = self._transcript
        if transcript.gaps or not transcript.is_text_whole:  # half an answer is none
            return self._failed(INVALID)
        answer = self._answer()
        if answer is None:
            return self._failed(INVALID)
        if self._form is PLURAL and self._kind == "chat":
            answer = {"output": answer["message"]["content"] or ""}
        return json_reply(encode(answer))

    # ------------------------------------------------------------------ the parts of a stream

    def _rare(self, event: Event, out: list[bytes]) -> None:
        kind = event["type"]
        if kind == "tool_call" and self._form.tools:
            out.append(_frame({"type": "tool_call", "tool_call": function_call(event)}))
        elif kind == "tool_result" and self._form.tools:
            told = {"type": "tool_result", "tool_call_id": event["id"], "output": _as_text(event.get("output"))}
            out.append(_frame(told))
        elif kind == "final":
            self._finish(event, out)
        elif kind == "error":
            out.append(self._error(TurnEnding(Cause(event["cause"]), event["message"], event.get("kind", ""))))

    def _finish(self, event: Event, out: list[bytes]) -> None:
        """An agent that answered by a value only tells it as one piece."""
        if "lost" in event:
            if self._has_spoken:
                out.append(self._error(INVALID))
            return
        if not self._has_text:
            answer = self._answer()
            if answer is None:
                if self._has_spoken:  # of its tools
                    out.append(self._error(INVALID))
                return
            text = answer["message"]["content"] if self._kind == "chat" else _as_text(answer["output"])
            if text:
                out.append(self._form.piece % safe(orjson.dumps(text)))
        out.append(DONE)

    def _answer(self) -> dict[str, Any] | None:
        return message_of(self._transcript) if self._kind == "chat" else output_of(self._transcript)

    def _error(self, ending: TurnEnding) -> bytes:
        _, body = failure(ending, self._agent, self._kind)
        return self._form.error % safe(encode(body["error"]))

    def _failed(self, ending: TurnEnding) -> web.Response:
        status, body = failure(ending, self._agent, self._kind)
        return error_reply(ending.cause, status, encode(body))


def message_of(transcript: Transcript) -> dict[str, Any] | None:
    """The answer to a chat; None when the agent gave none that is valid."""
    if calls := handed(transcript.value, transcript.tool_calls):
        message = {"content": transcript.text or None, TOOL_CALLS: [function_call(call) for call in calls]}
    elif text := transcript.text:
        message = {"content": text}
    elif transcript.structured is not None:
        message = {"content": _as_text(transcript.structured.get("value"))}
    elif not transcript.answers:  # nothing, or only why there is nothing
        return None
    elif (found := _message(transcript.value)) is not None:
        message = found
    else:
        return None
    return {"message": {"role": "assistant", **message}}


def output_of(transcript: Transcript) -> dict[str, Any] | None:
    """The answer to an invoke; None when the agent gave none. A final value that is no text goes before all text."""
    if transcript.answers and not isinstance(transcript.value, str):
        return {"output": transcript.value}
    if text := transcript.text:
        return {"output": text}
    if transcript.structured is not None:
        return {"output": transcript.structured.get("value")}
    return {"output": transcript.value} if transcript.answers else None


def _message(value: Any) -> dict[str, Any] | None:
    """What a chat ended with, as a message: a text, or a message of the assistant's."""
    match value:
        case str():
            return {"content": value}
        case {"role": "assistant", "content": str() | None as text, "tool_calls": [_, *_] as calls}:
            return {"content": text, TOOL_CALLS: calls}
        case {"role": "assistant", "content": str(text)}:
            return {"content": text}
    return None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _frame(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % safe(encode(value))
