"""One turn as AgentScope's clients read it: a stream of responses, messages and contents (wire/agentscope.md). Pure.

Every event carries `output`, the answer so far: one client reads nothing else, and reads it from each of them. It shows
the newest text message, or the end of it. And every frame but the last is small, since that client takes for a frame
what one read gives it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from supervisor.http.dialects.agentscope_objects import (
    RESULT,
    SOURCE,
    TYPES,
    Object,
    Reply,
    how_it_ended,
    message,
    whole,
)
from supervisor.http.dialects.agentscope_text import MOST_ESCAPED, PIECE_BYTES, Tail, inner, split
from supervisor.http.dialects.answer import Answer, Frames, Part
from supervisor.http.dialects.base import PATIENCE_SECONDS, Manner
from supervisor.http.dialects.data_lines import DONE, safe
from supervisor.http.envelope import encode
from supervisor.http.replies import json_reply
from supervisor.turns.transcript import Event
from supervisor.turns.turn import Item, Turn, TurnEnding

FRAME_BYTES: Final = 8 * 1024  # every frame but the last is smaller, unless a whole part has to be in it
LARGE_BATCH: Final = 8  # events of some kilobytes each: together no more than one read takes

RUNNING: Final = "running"
FINISHED: Final = "finished"
ERROR: Final = "error"

_START: Final = b'data: {"sequence_number":'
_DELTA: Final = (
    b',"object":"content","status":"in_progress","error":null,"type":"text","index":0,"delta":true,"msg_id":%b,"text":"'
)
_OUTPUT: Final = (
    b',"output":[{"object":"message","status":"in_progress","id":%b,"type":"message","role":"assistant","content":'
    b'[{"object":"content","type":"text","index":0,"delta":true,"msg_id":%b,"text":"'
)
_WHOLE: Final = b'"}]}]}\n\n'
_CUT: Final = b'","truncated":true}]}]}\n\n'
_NOTHING: Final[Mapping[str, None]] = {"code": None, "message": None, "usage": None, "metadata": None}


class AgentScope:
    """A turn as a stream."""

    manner = Manner(patience=PATIENCE_SECONDS, batch=LARGE_BATCH)

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._answer = Answer()
        self._sequence = 0
        self._message_id = ""  # of the part that is open
        self._delta = b""  # what stands before the text of a delta, behind the sequence number
        self._output = b""  # what stands before the text so far
        self._tail = Tail()
        self._last: Object = {}
        self._show(reply.answer_id)

    def opening(self, _: Turn) -> list[bytes]:
        """The events ``created`` and ``in_progress``."""
        return [_frame(self._reply.begins(self._next(), status)) for status in ("created", "in_progress")]

    def events(self, items: list[Item]) -> Sequence[bytes]:
        """What there is to tell of these events, and at the very end ``[DONE]``."""
        return self._answer.follow(items, self)

    def body(self, _turn: Turn, _ending: TurnEnding) -> web.Response:
        """The last event alone; no client of this API asks for that."""
        return json_reply(encode(self._last))

    # ------------------------------------------------------------------ the voice

    def begun(self, part: Part, out: Frames) -> None:
        """A message begins."""
        self._message_id = message_id = self._reply.begun(part)
        self._delta = _DELTA % encode(message_id)
        if part.kind == "text":
            self._show(message_id)
        self._begin(message_id, TYPES[part.kind], out)

    def piece(self, part: Part, text: str, out: Frames) -> None:
        """A delta, or several where one would be too large."""
        if len(text) > PIECE_BYTES // MOST_ESCAPED:
            for fit in split(text):
                self._add(part, fit, out)
        elif text:
            self._add(part, text, out)

    def ended(self, part: Part, out: Frames) -> None:
        """The whole part, and the message with it."""
        if part.kind != "call" and not part.body.size:
            self._add(part, "", out)  # a part is known by its deltas
        self._complete(self._message_id, part, out, is_result=False)

    def result(self, part: Part, out: Frames) -> None:
        """A call's result: a message of its own."""
        message_id = self._reply.result(part)
        self._begin(message_id, RESULT, out)
        self._complete(message_id, part, out, is_result=True)

    def over(self, answer: Answer, last: Event, out: Frames) -> None:
        """The last response event; before it an error as a message, since one UI shows it by that."""
        _, error = how_it_ended(last)
        if error is not None:
            told = {**message(self._reply.new_id(), "error", "failed", []), **_NOTHING, **error}
            self._tell(told, out, error=error)
        self._last = self._reply.ends(self._next(), answer, last)
        out += (_frame(self._last), DONE)

    # ------------------------------------------------------------------ frames

    def _add(self, part: Part, text: str, out: Frames) -> None:
        data = inner(text)
        tail = self._tail
        if part.kind == "text":
            tail.add(text, data)
        end = _CUT if tail.cut else _WHOLE
        out.append(b'%b%d%b%b"%b%b%b' % (_START, self._sequence, self._delta, data, self._output, tail.data, end))
        self._sequence += 1

    def _begin(self, message_id: str, kind: str, out: Frames) -> None:
        self._tell({**message(message_id, kind, "in_progress", None), **_NOTHING}, out)

    def _complete(self, message_id: str, part: Part, out: Frames, *, is_result: bool) -> None:
        kind = RESULT if is_result else TYPES[part.kind]
        complete = whole(message_id, part, is_result)
        self._tell(complete, out)
        self._tell({**message(message_id, kind, "completed", [complete]), **_NOTHING}, out)

    def _tell(self, thing: Object, out: Frames, error: Any = None) -> None:
        """A message or content event; the answer so far gets the room that is left."""
        head = {"sequence_number": self._next(), "object": thing["object"], "status": thing["status"], "error": error}
        data = safe(encode(head | thing))[:-1]
        room = FRAME_BYTES - 1 - len(data) - len(b"data: ") - len(self._output) - len(_CUT)
        tail, cut = self._tail.within(room)
        out.append(b"data: %b%b%b%b" % (data, self._output, tail, _CUT if cut else _WHOLE))

    def _show(self, message_id: str) -> None:
        """From now on this message is the answer so far."""
        name = encode(message_id)
        self._output = _OUTPUT % (name, name)
        self._tail = Tail()

    def _next(self) -> int:
        sequence = self._sequence
        self._sequence += 1
        return sequence


class Task:
    """A turn in the background: only how it ended is told, and kept."""

    manner = Manner(patience=PATIENCE_SECONDS)
    source = SOURCE

    def __init__(self, task_id: str, reply: Reply) -> None:
        self.id = task_id
        self._reply = reply
        self._answer = Answer()
        self._response = reply.begins(0, "in_progress")
        self._status = RUNNING

    @property
    def status(self) -> str:
        """``running``, then ``finished`` or ``error``."""
        return self._status

    def snapshot(self) -> Object:
        """The last response event, once it has ended."""
        return self._response

    def opening(self, _: Turn) -> list[bytes]:
        """Nothing: there is no stream."""
        return []

    def events(self, items: list[Item]) -> Sequence[bytes]:
        """Nothing, but all is taken in."""
        return self._answer.follow(items, self)

    def body(self, _turn: Turn, _ending: TurnEnding) -> web.Response:
        """The last event; a task's request is answered before it has ended."""
        return json_reply(encode(self._response))

    def begun(self, part: Part, _: Frames) -> None:
        """A message begins."""
        self._reply.begun(part)

    def piece(self, part: Part, text: str, out: Frames) -> None:
        """Nobody follows."""

    def ended(self, part: Part, out: Frames) -> None:
        """Nobody follows."""

    def result(self, part: Part, _: Frames) -> None:
        """A call's result."""
        self._reply.result(part)

    def over(self, answer: Answer, last: Event, _: Frames) -> None:
        """It has ended."""
        self._response = self._reply.ends(0, answer, last)
        self._status = FINISHED if self._response["status"] == "completed" else ERROR


def _frame(event: Object) -> bytes:
    return b"data: %b\n\n" % safe(encode(event))
