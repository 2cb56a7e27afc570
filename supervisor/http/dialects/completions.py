"""One turn as OpenAI's chat completions tell of it. Pure.

A completion has one text, so the borders between the parts of an answer do not show. Calls show only when the client is
to answer them, which is known at the end; those that the agent answers itself are its own business.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects import openai_errors
from supervisor.http.dialects.answer import Answer, Frames, Part, function_call
from supervisor.http.dialects.base import Manner
from supervisor.http.dialects.data_lines import DONE
from supervisor.http.envelope import encode
from supervisor.http.replies import CAUSE_HEADER, json_reply
from supervisor.turns.transcript import Event
from supervisor.turns.turn import Item, Turn, TurnEnding

FILTERED: Final = "content_filter"  # of the reasons why an answer is not whole the one with a word of its own

# Where a piece of a part goes.
FIELDS: Final = {"text": b"content", "thought": b"reasoning_content"}

# Counts of details, by the field of the usage they are in.
DETAILS: Final[Mapping[str, Sequence[str]]] = {
    "prompt_tokens_details": ("cached_tokens", "audio_tokens"),
    "completion_tokens_details": ("reasoning_tokens", "audio_tokens"),
}


class Completion:
    """One turn in this API. `model` is what was asked for, and is echoed."""

    manner = Manner()

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        self._model = model
        self._include_usage = include_usage
        self._answer = Answer()
        self._about: dict[str, Any] = {}
        self._heads: dict[str, bytes] = {}
        self._tail = b""

    # ------------------------------------------------------------------ as a translator

    def opening(self, turn: Turn) -> list[bytes]:
        """The chunk with the role; what all chunks have in common is encoded here, once."""
        name = turn.id.removeprefix("turn-")
        self._about = {"id": f"chatcmpl-{name}", "created": int(turn.began_at), "model": self._model}
        common = encode({**self._about, "object": "chat.completion.chunk", **self._usage_of_chunk()})
        for kind, field in FIELDS.items():
            self._heads[kind] = b'data: %b,"choices":[{"index":0,"delta":{"%b":' % (common[:-1], field)
        self._tail = b'},"logprobs":null,"finish_reason":null}]}\n\n'
        return [self._chunk({"role": "assistant", "content": ""})]

    def events(self, items: list[Item]) -> Sequence[bytes]:
        """A chunk for each piece, and the ending."""
        return self._answer.follow(items, self)

    def body(self, turn: Turn, ending: TurnEnding) -> web.Response:
        """The completion; of a turn that failed an error that the SDK does not try again: the agent may have acted."""
        if not ending.completed:
            status, body = openai_errors.error(Refusal(ending.cause, ending.detail))
            response = json_reply(encode(body), status)
            response.headers[CAUSE_HEADER] = ending.cause.value
            response.headers["x-should-retry"] = "false"
            return response
        answer = self._answer
        texts = {kind: "".join(part.text for part in answer.parts if part.kind == kind) for kind in FIELDS}
        handed = answer.handed
        message: dict[str, Any] = {"role": "assistant", "content": texts["text"], "refusal": None, "annotations": []}
        if texts["thought"]:
            message["reasoning_content"] = texts["thought"]
        if handed:
            message["content"] = texts["text"] or None
            message["tool_calls"] = [function_call(call) for call in handed]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish_reason()}
        usage = counts(answer.usage)
        return json_reply(encode({**self._about, "object": "chat.completion", "choices": [choice], "usage": usage}))

    # ------------------------------------------------------------------ as a voice

    def begun(self, part: Part, out: Frames) -> None:
        """Nothing: a completion has one text."""

    def piece(self, part: Part, text: str, out: Frames) -> None:
        """A chunk with a piece of the text or of the thoughts."""
        out.append(self._heads[part.kind] + orjson.dumps(text) + self._tail)

    def ended(self, part: Part, out: Frames) -> None:
        """Nothing."""

    def result(self, part: Part, out: Frames) -> None:
        """Nothing: it is the agent's own call."""

    def over(self, answer: Answer, last: Event, out: Frames) -> None:
        """The calls for the client, why it ended, the usage; or the error."""
        if last["type"] == "error":
            _, body = openai_errors.error(Refusal(Cause(last["cause"]), last["message"]))
            out += [b"data: %b\n\n" % encode(body), DONE]
            return
        out += [
            self._chunk({"tool_calls": [{"index": n, **function_call(call)}]}) for n, call in enumerate(answer.handed)
        ]
        out.append(self._chunk({}, self._finish_reason()))
        if self._include_usage:
            body = {**self._about, "object": "chat.completion.chunk", "choices": [], "usage": counts(answer.usage)}
            out.append(b"data: %b\n\n" % encode(body))
        out.append(DONE)

    # ------------------------------------------------------------------ the parts of both

    def _usage_of_chunk(self) -> dict[str, Any]:
        return {"usage": None} if self._include_usage else {}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        body = {**self._about, "object": "chat.completion.chunk", **self._usage_of_chunk(), "choices": [choice]}
        return b"data: %b\n\n" % encode(body)

    def _finish_reason(self) -> str:
        if self._answer.handed:
            return "tool_calls"
        reason = self._answer.incomplete
        return "stop" if not reason else FILTERED if reason == FILTERED else "length"


def counts(usage: Event | None) -> dict[str, Any] | None:
    """The tokens used, under the names of this API; none when the agent tells none."""
    if usage is None:
        return None
    told: dict[str, Any] = {
        "prompt_tokens": usage.get("input_tokens", 0),
        "completion_tokens": usage.get("output_tokens", 0),
        "total_tokens": usage.get("total_tokens", 0),
    }
    for name, fields in DETAILS.items():
        if details := {field: usage[field] for field in fields if field in usage}:
            told[name] = details
    return told
