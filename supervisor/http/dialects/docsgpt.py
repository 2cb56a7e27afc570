"""One turn as DocsGPT's clients read it: frames up to ``end`` or ``error``, or five keys (wire/docsgpt.md 5, 6). Pure.

What is told once, at the end, is taken from the turn's transcript, so that a stream and a plain answer are the same.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

import orjson
from aiohttp import hdrs, web

from supervisor.causes import Cause
from supervisor.http.dialects.answer import handed, value_as_text
from supervisor.http.dialects.base import Manner
from supervisor.http.dialects.docsgpt_errors import RETRY_SECONDS, UNAVAILABLE, error_frame, failure, text_of
from supervisor.http.dialects.docsgpt_frames import (
    ANSWER,
    END,
    MOST_TEXT,
    THOUGHT,
    Fields,
    ascii_json,
    call_frame,
    call_of,
    fits,
    frame,
    list_frame,
    listed_call,
    pieces,
    source_of,
    with_result,
)
from supervisor.http.envelope import encode
from supervisor.http.replies import error_reply, json_reply
from supervisor.http.sse import Pace
from supervisor.turns.transcript import Event, Transcript
from supervisor.turns.turn import Item, Turn, TurnEnding

LOST: Final = "Some of what the agent said was lost on the way."
TOO_LONG: Final = "The answer is too long to be told in one piece."
MOST_OPEN: Final = 256  # calls without a result; of those beyond, the result is told at the end only
PROGRAM: Final = Manner(keep_alive=b"\n", cache="no-store")
# The widget needs whole frames in what it reads at once, which is 64 KiB at most: so much comes only to a page that has
# shown nothing for three quarters of a second.
PAGE: Final = replace(PROGRAM, pace=Pace(16 * 1024, 0.2))
TEXTS: Final = ("text", "thought")
MANY: Final = 64  # events at once: more than a page can show one by one


class DocsGpt:
    """One question. `conversation` is the id that is told; of `left_out` attachments a notice tells.

    Of an agent whose answers are `structured` no text is told before it is known whether data comes; of others the
    data is the answer when they have said no text. Of a stream `manner` says who reads it, a `PAGE` or a `PROGRAM`.
    """

    def __init__(
        self, conversation: str, *, left_out: int = 0, structured: bool = False, manner: Manner = PROGRAM
    ) -> None:
        self.manner = manner
        self._conversation = conversation
        self._left_out = left_out
        self._holds = structured
        self._transcript = Transcript()
        self._has_text = False
        self._open: dict[str, Fields] = {}  # calls, as they were told, that have no result so far

    def opening(self, turn: Turn) -> list[bytes]:
        """A notice of what was left out, if anything was."""
        self._transcript = turn.transcript
        return [frame("notice", notice=notice_of(self._left_out))] if self._left_out else []

    def events(self, items: list[Item]) -> Sequence[bytes]:
        """The frames of these events; of the ending all that belongs to the end."""
        out: list[bytes] = []
        if len(items) > MANY and self.manner.pace is not None:
            items = _joined(items)
        for item in items:
            event = item.event
            if event["type"] == "text":  # the hottest path
                if (text := event["text"]) and not self._holds:
                    self._has_text = True
                    told = ascii_json(text)
                    if len(told) <= MOST_TEXT:
                        out.append(ANSWER % told)
                    else:
                        out += pieces(ANSWER, text)
            else:
                self._rare(event, out)
        return out

    def body(self, _: Turn, ending: TurnEnding) -> web.Response:
        """The whole answer: five keys, and two more if it is data. Or why there is none."""
        transcript = self._transcript
        if not ending.completed:
            return _failed(ending.cause, ending.detail)
        if transcript.gaps:
            return _failed(Cause.RESPONSE_INVALID, LOST)
        if not transcript.is_text_whole:
            return _failed(Cause.RESPONSE_INVALID, TOO_LONG)
        data = self._data
        answer = {
            "conversation_id": self._conversation,
            "answer": self._text if data is None else value_as_text(None, data.get("value")),
            "sources": [source_of(source) for source in transcript.sources],
            "tool_calls": self._calls,
            "thought": transcript.thoughts,
        }
        more = {} if data is None else {"structured": True, "schema": data.get("schema")}
        return json_reply(encode(answer | more))

    # ------------------------------------------------------------------ the parts of a stream

    def _rare(self, event: Event, out: list[bytes]) -> None:
        kind = event["type"]
        if kind == "thought":
            if text := event["text"]:
                out += pieces(THOUGHT, text)
        elif kind == "tool_call":
            called, told = call_frame(call_of(event))
            out.append(told)
            if len(self._open) < MOST_OPEN:
                self._open[event["id"]] = called
        elif kind == "tool_result":
            self._result(event, out)
        elif kind == "final":
            self._finish(event, out)
        elif kind == "error":
            out.append(error_frame(text_of(Cause(event["cause"]), event["message"])))

    def _result(self, event: Event, out: list[bytes]) -> None:
        """The call once more; a result of what was never called is none."""
        if (called := self._open.pop(event["id"], None)) is not None:
            out.append(call_frame(with_result(called, event))[1])

    def _finish(self, event: Event, out: list[bytes]) -> None:
        if "lost" in event:
            out.append(error_frame(LOST))
            return
        if not (self._has_text or self._transcript.is_text_whole):  # it was held, and is not all there
            out.append(error_frame(TOO_LONG))
            return
        data = self._data
        text = self._text if data is None else value_as_text(None, data.get("value"))
        structured = b"" if data is None else _structured(text, data.get("schema"))
        if text and not structured and not self._has_text:
            out += pieces(ANSWER, text)
        if sources := self._transcript.sources:
            out.append(list_frame("source", [source_of(source) for source in sources]))
        out.append(list_frame("tool_calls", self._calls))
        if structured:
            out.append(structured)
        out += (frame("id", id=self._conversation), END)

    @property
    def _data(self) -> Event | None:
        """The data that is the answer."""
        return self._transcript.structured if self._holds or not self._has_text else None

    @property
    def _text(self) -> str:
        """The answer if it is a text: all that was said, else what the turn ended with."""
        transcript = self._transcript
        if text := transcript.text:
            return text
        value = transcript.value
        return "" if handed(value, transcript.tool_calls) else value_as_text(value, None)

    @property
    def _calls(self) -> list[Fields]:
        """All calls, with what is known of each at the end."""
        return list(map(listed_call, self._transcript.tool_calls))


def _joined(items: list[Item]) -> list[Item]:
    """The same events with all pieces of a text in one that follow each other; so of thoughts."""
    joined: list[Item] = []
    for kind, run in groupby(items, lambda item: item.event["type"]):
        if kind in TEXTS:
            joined.append(Item({"type": kind, "text": "".join(item.event["text"] for item in run)}, b""))
        else:
            joined += run
    return joined


def notice_of(count: int) -> str:
    """That so many attachments do not go along, whatever the reasons are (section 7)."""
    if count == 1:
        return "1 attachment was not found and was left out"
    return f"{count} attachments were not found and were left out"


def _structured(text: str, schema: Any) -> bytes:
    """The frame of an answer that is data, without its schema if it is too long with it; b"" if it is even then."""
    for known in (schema if isinstance(schema, dict) else None, None):
        told = frame("structured_answer", answer=text, structured=True, schema=known)
        if fits(told):
            return told
    return b""


def _failed(cause: Cause, detail: str) -> web.Response:
    status, body = failure(cause, detail)
    response = error_reply(cause, status, orjson.dumps(body))
    if status == UNAVAILABLE:
        response.headers.setdefault(hdrs.RETRY_AFTER, str(RETRY_SECONDS))
    return response
