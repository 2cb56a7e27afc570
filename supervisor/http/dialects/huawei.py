"""One turn as the units of Huawei Cloud's agent call (wire/huawei-agent.md sections 4 and 6). Pure.

The units have an order: rounds of ``start`` and messages, between them pairs of ``plugin_start`` and ``plugin_end``.
Agents need not keep it: they may call several tools at once, and talk meanwhile. So one call is open at a time, the
others wait behind it, and text that comes while a call is open is held until there is none; within a bound.
"""

import json
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from typing import Any, Final

import orjson
from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects.answer import handed, value_as_text
from supervisor.http.dialects.base import PATIENCE_SECONDS, Manner
from supervisor.http.dialects.data_lines import safe
from supervisor.http.dialects.huawei_errors import error, error_data
from supervisor.http.envelope import encode
from supervisor.http.replies import error_reply
from supervisor.turns.transcript import Event, Text, Transcript
from supervisor.turns.turn import Item, Turn, TurnEnding

MOST_HELD: Final = 1024 * 1024  # bytes or so of what waits for a call to end
ENTRY: Final = 256  # that each call or result takes besides what is in it
PIECE: Final = 4096  # characters of a message, when text is told that was held
NO_RESULT: Final = "error: the tool gave no result"
LOST: Final = "some of what the agent said was lost on the way"
TOO_LONG: Final = "the answer is too long to be repeated whole"

_MESSAGE: Final = b'data:{"event":"message","content":%b,"createdTime":%d}\n\n'


class Huawei:
    """A turn as a stream; there is no other form. `clock` tells the time in milliseconds of the epoch, never less."""

    manner = Manner(keep_alive=b":\n\n", first_seconds=PATIENCE_SECONDS)

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._transcript = Transcript()
        self._now = self._began = clock()
        self._told = 0  # characters of text so far,
        self._round_at = 0  # and before the round that runs
        self._needs_start = False
        self._calls: dict[str, Event] = {}  # without a result so far; of the first the start was told
        self._called_at: dict[str, int] = {}
        self._results: dict[str, Event] = {}  # of those behind the first
        self._held = Text()  # what was said meanwhile, to be told when all calls have ended
        self._held_size = 0  # of it, and of
        self._sizes: dict[str, int] = {}  # the calls and results that wait
        self._has_called = False
        self._plugin_ms = 0.0  # that tools took, one by one
        self._waited_ms = 0  # while any of them ran
        self._waiting_since = 0

    def opening(self, turn: Turn) -> list[bytes]:
        """The first ``start``: the turn is accepted."""
        self._transcript = turn.transcript
        self._now = self._began = self._clock()
        return [self._unit("start")]

    def events(self, items: list[Item]) -> Sequence[bytes]:
        """The units of these events; the last ones are ``statistic_data``, ``summary_response`` and ``done``."""
        out: list[bytes] = []
        self._now = self._clock()
        for item in items:
            event = item.event
            if event["type"] == "text":  # the hottest path
                if text := event["text"]:
                    self._say(text, out)
            else:
                self._rare(event, out)
        return out

    def body(self, _: Turn, ending: TurnEnding) -> web.Response:
        """Why the turn failed before there was anything to tell of it."""
        status, body = error(Refusal(ending.cause, ending.detail))
        return error_reply(ending.cause, status, encode(body))

    # ------------------------------------------------------------------ what the agent does

    def _say(self, text: str, out: list[bytes]) -> None:
        if self._calls:
            self._held.add(text)
            self._held_size += len(text)
            self._check_held(out)
            return
        if self._needs_start:
            self._start(out)
        self._told += len(text)
        out.append(_MESSAGE % (safe(orjson.dumps(text)), self._now))

    def _rare(self, event: Event, out: list[bytes]) -> None:
        kind = event["type"]
        if kind == "tool_call":
            self._call(event, out)
        elif kind == "tool_result":
            self._result(event, out)
        elif kind == "final":
            self._finish(event, out)
        elif kind == "error":
            self._fail(Cause(event["cause"]), event["message"], out)

    def _call(self, event: Event, out: list[bytes]) -> None:
        name = event["id"]
        if name in self._calls:  # its result could not be told from the other's
            return
        if not self._calls:
            self._waiting_since = self._now
        self._has_called = True
        self._calls[name] = event
        self._called_at[name] = self._now
        if len(self._calls) == 1:
            self._open(event, out)
        else:
            self._hold(event, out)

    def _result(self, event: Event, out: list[bytes]) -> None:
        name = event["id"]
        if name not in self._calls:
            return
        self._results[name] = event
        if name == next(iter(self._calls)):
            self._go_on(out)
        else:
            self._hold(event, out)

    def _go_on(self, out: list[bytes]) -> None:
        """Tell the results that are there up to the first call without one, then the text that was held."""
        ready = list(takewhile(self._results.__contains__, self._calls))
        waiting = dict(islice(self._calls.items(), len(ready), None))
        for number, name in enumerate(ready):
            if number:  # the first was told when it was called
                self._open(self._calls[name], out)
            self._close(name, self._results.pop(name), out)
        self._calls = waiting
        if waiting:
            self._open(next(iter(waiting.values())), out)
            return
        self._waited_ms += self._now - self._waiting_since
        text, self._held = str(self._held), Text()
        self._held_size -= len(text)
        for start in range(0, len(text), PIECE):
            self._say(text[start : start + PIECE], out)

    def _hold(self, event: Event, out: list[bytes]) -> None:
        """A call or a result has to wait."""
        size = len(orjson.dumps(event)) + ENTRY
        self._sizes[event["id"]] = self._sizes.get(event["id"], 0) + size
        self._held_size += size
        self._check_held(out)

    def _check_held(self, out: list[bytes]) -> None:
        """Beyond the bound nobody waits any longer for the results that are missing."""
        if self._held_size > MOST_HELD:
            self._give_up(out)

    def _give_up(self, out: list[bytes]) -> None:
        for name in self._calls:
            self._results.setdefault(name, {"output": NO_RESULT})
        self._go_on(out)

    # ------------------------------------------------------------------ units

    def _unit(self, event: str, **fields: Any) -> bytes:
        return b"data:%b\n\n" % safe(encode({"event": event, **fields, "createdTime": self._now}))

    def _start(self, out: list[bytes]) -> None:
        self._needs_start = False
        self._round_at = self._told
        out.append(self._unit("start"))

    def _open(self, call: Event, out: list[bytes]) -> None:
        # As a text, written as in the published examples.
        plugin = {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
        out.append(self._unit("plugin_start", type="plugin", latency={"overall": self._overall}, plugin=plugin))

    def _close(self, name: str, result: Event, out: list[bytes]) -> None:
        called_at = self._called_at.pop(name)
        self._held_size -= self._sizes.pop(name, 0)
        ms = result.get("ms")
        took = float(ms) if isinstance(ms, int | float) and ms >= 0 else float(self._now - called_at)
        self._plugin_ms += took
        latency = {"overall": self._overall, "plugin": _seconds(took)}
        out.append(self._unit("plugin_end", content=_content(result), role="function", latency=latency))
        self._needs_start = True

    def _finish(self, event: Event, out: list[bytes]) -> None:
        if self._calls:
            self._give_up(out)
        if "lost" in event:
            self._fail(Cause.RESPONSE_INVALID, LOST, out)
            return
        has_round = not self._needs_start and self._told > self._round_at
        if not has_round and (text := _instead_of_text(self._transcript)):
            self._say(text, out)
            summary = text
        else:
            if self._needs_start:
                self._start(out)
            summary = self._transcript.text[self._round_at :]
        if not self._transcript.is_text_whole:
            self._fail(Cause.RESPONSE_INVALID, TOO_LONG, out)
            return
        self._tell_statistics(out)
        out += (self._unit("summary_response", content=summary, role="assistant"), self._unit("done"))

    def _fail(self, cause: Cause, detail: str, out: list[bytes]) -> None:
        out.append(self._unit("error", data=error_data(cause, detail)))
        if self._calls:
            self._waited_ms += self._now - self._waiting_since
        self._tell_statistics(out)
        out.append(self._unit("done"))

    def _tell_statistics(self, out: list[bytes]) -> None:
        latency = {"overall": self._overall, "model": _seconds(self._now - self._began - self._waited_ms)}
        if self._has_called:
            latency["plugin"] = _seconds(self._plugin_ms)
        out.append(self._unit("statistic_data", latency=latency))

    @property
    def _overall(self) -> float:
        return _seconds(self._now - self._began)


def _seconds(ms: float) -> float:
    return round(ms / 1000, 2)


def _content(result: Event) -> dict[str, Any]:
    """What a tool gave, as an object."""
    output = result.get("output")
    if result.get("failed") is True:
        return {"result": f"error: {value_as_text(output, None)}"}
    return output if isinstance(output, dict) else {"result": output}


def _instead_of_text(transcript: Transcript) -> str:
    """What the turn ended with instead of text; nothing when the client is to answer calls."""
    if handed(transcript.value, transcript.tool_calls):
        return ""
    structured = transcript.structured
    return value_as_text(transcript.value, None if structured is None else structured.get("value"))
