"""One turn as OpenAI's Responses tell of it (wire/openai-responses.md sections 5 and 8). Pure.

The frames of a stream are numbered from 0 without a gap: the n-th frame has the sequence number n.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from aiohttp import web

from supervisor.causes import Cause
from supervisor.http.dialects.answer import Answer, Frames, Part
from supervisor.http.dialects.base import PATIENCE_SECONDS, Manner
from supervisor.http.dialects.openai_errors import SOURCE
from supervisor.http.dialects.responses_object import (
    CANCELLED,
    SERVER_ERROR,
    Object,
    as_lost,
    content_of,
    doubled,
    error_of,
    item_id,
    item_of,
    reason_of,
    told_of,
    usage_of,
    whole_item,
)
from supervisor.http.dialects.responses_request import ResponsesBody
from supervisor.http.envelope import encode
from supervisor.http.replies import json_reply
from supervisor.turns.requests import TurnRequest
from supervisor.turns.transcript import Event
from supervisor.turns.turn import Item, Turn, TurnEnding

__all__ = ["Responses", "as_lost", "doubled"]

ENDS: Final = frozenset({"final", "error"})
NOTHING_YET: Final[Object] = {"error": None, "incomplete_details": None, "usage": None, "completed_at": None}
GIVEN_UP: Final = frozenset({Cause.TURN_CANCELLED, Cause.CLIENT_GONE})

# What the pieces of a part are called, and what they have besides.
DELTAS: Final[Mapping[str, tuple[str, Object]]] = {
    "text": ("response.output_text", {"content_index": 0, "logprobs": []}),
    "thought": ("response.reasoning_text", {"content_index": 0}),
    "call": ("response.function_call_arguments", {}),
}


class Responses:
    """One response: a translator, the voice of its answer, and what is kept of it."""

    manner = Manner(patience=PATIENCE_SECONDS)
    source = SOURCE

    def __init__(self, told: Object, created_at: float) -> None:
        """`told` is what the response says all the time (`told_of`), `created_at` in seconds since 1970."""
        self.id: str = told["id"]
        self._created_at: Final = created_at
        self._told: Final = told
        self._state: Object = {"status": "queued", **NOTHING_YET}
        self._answer = Answer()
        self._number = 0
        self._open: Part | None = None
        self._cut: Part | None = None  # the part that was open when the turn ended badly
        self._last: Event | None = None
        self._delta = b""  # what stands before the next piece's text
        self._call_ids: set[str] = set()
        self._renamed: dict[int, str] = {}

    @classmethod
    def to(cls, body: ResponsesBody, request: TurnRequest, *, id: str, created_at: float) -> "Responses":  # noqa: A002
        """A response to this; `id` is what it is called, `created_at` when it was asked for, in seconds since 1970."""
        return cls(told_of(body, request, id, created_at), created_at)

    @classmethod
    def again(cls, snapshot: Object) -> "Responses":
        """The response of an earlier server: the same events make the same of it, with the same numbers and names.

        Raises KeyError for a snapshot that lacks what it takes.
        """
        told = {key: value for key, value in snapshot.items() if key not in ("status", "output", *NOTHING_YET)}
        return cls(told, float(snapshot["created_at"]))

    @property
    def status(self) -> str:
        """How far it is."""
        return str(self._state["status"])

    def snapshot(self) -> dict[str, Any]:
        """The Response object as it is now."""
        return {**self._told, **self._state, "output": [self._whole(part) for part in self._answer.parts]}

    # ------------------------------------------------------------------ as a translator

    def opening(self, _: Turn) -> list[bytes]:
        """``response.created`` and ``response.in_progress``."""
        self._state["status"] = "in_progress"
        response = self.snapshot()
        return [self._frame(f"response.{word}", {"response": response}) for word in ("created", "in_progress")]

    def events(self, items: list[Item]) -> Sequence[bytes]:
        """The frames of these events."""
        if not items or items[-1].event["type"] not in ENDS:
            return self._answer.follow(items, self)
        # Whether what is open then is whole depends on how the turn ends; what has ended before is.
        frames = self._answer.follow(items[:-1], self)
        self._last = items[-1].event
        return frames + self._answer.follow(items[-1:], self)

    def body(self, _turn: Turn, _ending: TurnEnding) -> web.Response:
        """The Response object, also of a turn that failed: any other status would have the SDK ask again."""
        return json_reply(encode(doubled(self.snapshot())))

    # ------------------------------------------------------------------ as a voice

    def begun(self, part: Part, out: Frames) -> None:
        """An item is there, without content."""
        self._open = part
        if part.kind == "call":
            self._name(part)
        item = self._named(part, item_of(self.id, part, "in_progress"))
        out.append(self._frame("response.output_item.added", {"output_index": part.index, "item": item}))
        kind, more = DELTAS[part.kind]
        if part.kind == "text":
            [empty] = content_of(part, "")
            out.append(
                self._frame("response.content_part.added", {**self._of(part), "content_index": 0, "part": empty})
            )
        head = encode({"type": f"{kind}.delta", **self._of(part), **more})
        self._delta = b'event: %b.delta\ndata: %b,"delta":' % (kind.encode(), head[:-1])

    def piece(self, _: Part, text: str, out: Frames) -> None:
        """A piece of a text or a thought."""
        number = self._number
        self._number = number + 1
        out.append(b'%b%b,"sequence_number":%d}\n\n' % (self._delta, orjson.dumps(text), number))

    def ended(self, part: Part, out: Frames) -> None:
        """An item has all of its content."""
        self._open = None
        if self._ends_badly():
            self._cut = part
        kind, more = DELTAS[part.kind]
        of = self._of(part)
        if part.kind == "call":
            arguments = part.arguments
            self.piece(part, arguments, out)
            out.append(self._frame(f"{kind}.done", {**of, "name": part.call["name"], "arguments": arguments}))
        else:
            text = part.text
            out.append(self._frame(f"{kind}.done", {**of, **more, "text": text}))
            if part.kind == "text":
                [whole] = content_of(part, text)
                out.append(self._frame("response.content_part.done", {**of, "content_index": 0, "part": whole}))
        done = {"output_index": part.index, "item": self._whole(part)}
        out.append(self._frame("response.output_item.done", done))
        if not part.kept:
            self._renamed.pop(part.index, None)

    def result(self, _part: Part, _out: Frames) -> None:
        """What the agent's own tools return is its own business."""

    def over(self, answer: Answer, last: Event, out: Frames) -> None:
        """The last event; it has the whole output."""
        self._state["usage"] = usage_of(answer.usage)
        if last["type"] == "error":
            self._fail(Cause(last["cause"]), last.get("message", ""), out)
        elif answer.incomplete:
            self._state |= {"status": "incomplete", "incomplete_details": reason_of(answer.incomplete)}
            out.append(self._frame("response.incomplete", {"response": self.snapshot()}))
        else:
            self._state |= {
                "status": "completed",
                "completed_at": int(self._created_at + last.get("ms", 0) / 1000),
            }
            out.append(self._frame("response.completed", {"response": self.snapshot()}))

    # ------------------------------------------------------------------ inside

    def _fail(self, cause: Cause, message: str, out: Frames) -> None:
        """A cancelled response is told as a failed one, for streams have no event for it."""
        if cause in GIVEN_UP:
            self._state["status"] = CANCELLED
            failed = {"status": "failed", "error": {"code": SERVER_ERROR, "message": CANCELLED}}
        else:
            failed = {"status": "failed", "error": error_of(cause, message)}
            self._state |= failed
        out.append(self._frame("response.failed", {"response": {**self.snapshot(), **failed}}))

    def _ends_badly(self) -> bool:
        return self._last is not None and (self._last["type"] == "error" or bool(self._answer.incomplete))

    def _whole(self, part: Part) -> Object:
        """The item of a part as far as it got."""
        status = "in_progress" if part is self._open else "incomplete" if part is self._cut else "completed"
        return self._named(part, whole_item(self.id, part, status))

    def _name(self, part: Part) -> None:
        """Calls of one response have ids of their own, else the SDK takes them for one."""
        call_id = part.call["id"]
        if call_id in self._call_ids:
            call_id = self._renamed[part.index] = f"{call_id}_{part.index}"
        if part.kept:
            self._call_ids.add(call_id)

    def _named(self, part: Part, item: Object) -> Object:
        return item | {"call_id": self._renamed[part.index]} if part.index in self._renamed else item

    def _of(self, part: Part) -> Object:
        return {"item_id": item_id(self.id, part), "output_index": part.index}

    def _frame(self, kind: str, fields: Object) -> bytes:
        number = self._number
        self._number = number + 1
        data = encode({"type": kind, "sequence_number": number, **fields})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
