"""The frames of DocsGPT's streams, each so small that it arrives in one piece (wire/docsgpt.md section 5). Pure.

The widget has no buffer between two reads: a frame of which it gets one half ends the answer. So all is ASCII, nothing
is `MOST_FRAME` bytes long, long texts are several frames, and of what has to be one frame there is left out: first
arguments and results that are long, then the last entries of a list.
"""

from collections.abc import Iterator
from json import dumps
from json.encoder import encode_basestring_ascii
from typing import Any, Final

import orjson

Fields = dict[str, Any]

MOST_FRAME: Final = 16 * 1024 - 1
MOST_TEXT: Final = 15 * 1024  # bytes of JSON of one piece of a text
MOST_RESULT: Final = 2000  # characters
MOST_SOURCE: Final = 100  # characters of a source's text
MOST_NAME: Final = 200  # characters of names and ids
SHORT: Final = 200  # characters of a result or of arguments where the whole does not fit
MORE: Final = "..."
CUT: Final = "cut"  # the key under which arguments stand that are not whole

ANSWER: Final = b'data: {"type": "answer", "answer": %b}\n\n'
THOUGHT: Final = b'data: {"type": "thought", "thought": %b}\n\n'
END: Final = b'data: {"type": "end"}\n\n'


def ascii_json(text: str) -> bytes:
    """A text as JSON in ASCII, whatever it holds: the hottest path."""
    if text.isascii():
        return orjson.dumps(text)
    told = encode_basestring_ascii(text)
    if "\\ud" in told:  # an emoji, or half of one
        told = encode_basestring_ascii(whole(text))
    return told.encode()


def whole(text: str) -> str:
    """A text without lone surrogates: each becomes U+FFFD, a pair its character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def pieces(template: bytes, text: str) -> Iterator[bytes]:
    """The frames of a text, cut between characters where one is not enough."""
    encoded = ascii_json(text)
    if len(encoded) <= MOST_TEXT:
        yield template % encoded
        return
    half = len(text) // 2
    yield from pieces(template, text[:half])
    yield from pieces(template, text[half:])


def frame(kind: str, **fields: Any) -> bytes:
    """Any other frame, as long as it comes out."""
    return b"data: %b\n\n" % encoded({"type": kind, **fields})


def fits(data: bytes) -> bool:
    """Whether a frame is small enough."""
    return len(data) <= MOST_FRAME


def encoded(value: Any) -> bytes:
    """JSON in ASCII, without lone surrogates."""
    text = dumps(value)
    return (dumps(_whole(value)) if "\\ud" in text else text).encode()


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {whole(name): _whole(one) for name, one in value.items()}
    return value


# ---------------------------------------------------------------------- what frames and answers are made of


def call_of(event: Fields) -> Fields:
    """A call that has begun, as clients know it. One function is the whole tool."""
    name = _name(event.get("name"))
    arguments = event.get("arguments")
    told = {"tool_name": name, "call_id": _name(event.get("id")), "action_name": name}
    return {**told, "arguments": arguments if isinstance(arguments, dict) else {}, "status": "pending"}


def with_result(call: Fields, event: Fields) -> Fields:
    """A call that has ended."""
    told = {name: value for name, value in call.items() if name != "status"}
    return {**told, "result": _result(event), "status": _status(event)}


def listed_call(event: Fields) -> Fields:
    """A call of the transcript, for the list at the end; one that got no result is still pending."""
    called = call_of(event)
    pending = called.pop("status")
    ended = any(event.get(name) is not None for name in ("output", "ms")) or event.get("failed") is True
    artifact = event.get("artifact_id")
    called["artifact_id"] = artifact if isinstance(artifact, str) else None
    return {**called, "result": _result(event), "status": _status(event) if ended else pending}


def _result(event: Fields) -> str:
    return _cut(_as_text(event.get("output")), MOST_RESULT)


def _status(event: Fields) -> str:
    return "error" if event.get("failed") is True else "completed"


def source_of(event: Fields) -> Fields:
    """A source as clients know it: strings only, and of its text the beginning."""
    text = _as_text(event.get("text"))
    shown = text if len(text) <= MOST_SOURCE else text[:MOST_SOURCE].strip() + MORE
    told = {"title": _name(event.get("title")), "text": shown, "source": _name(event.get("source"), 5 * MOST_NAME)}
    filename = event.get("filename")
    return told if filename is None else {**told, "filename": _name(filename)}


def call_frame(call: Fields) -> tuple[Fields, bytes]:
    """The live view of a call; one that is too long has its arguments cut, and its result if need be."""
    for smaller in (call, {**call, "arguments": _short_arguments(call["arguments"])}):
        if fits(told := frame("tool_call", data=smaller)):
            return smaller, told
    smallest = _smallest(call)
    return smallest, frame("tool_call", data=smallest)


def list_frame(kind: str, items: list[Fields]) -> bytes:
    """One frame with all of these, or with those from the first on that fit."""
    told = frame(kind, **{kind: items})
    if fits(told):
        return told
    kept: list[bytes] = []
    room = MOST_FRAME - len(frame(kind, **{kind: []}))
    for one in map(encoded, map(_smallest, items)):
        room -= len(one) + len(b", ")
        if room < 0:
            break
        kept.append(one)
    return b'data: {"type": "%b", "%b": [%b]}\n\n' % (kind.encode(), kind.encode(), b", ".join(kept))


def _smallest(item: Fields) -> Fields:
    changed: Fields = {}
    if "arguments" in item:
        changed["arguments"] = _short_arguments(item["arguments"])
    if "result" in item:
        changed["result"] = _cut(item["result"], SHORT)
    if "source" in item:
        changed["source"] = _cut(item["source"], MOST_NAME)
    return {**item, **changed}


def _short_arguments(arguments: Fields) -> Fields:
    """Arguments as they are if they are short, else the beginning of their JSON."""
    if arguments.keys() == {CUT}:
        return arguments
    text = dumps(arguments)
    return arguments if len(text) <= SHORT else {CUT: text[:SHORT] + MORE}


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + MORE


def _name(value: Any, most: int = MOST_NAME) -> str:
    return _cut(_as_text(value), most)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else dumps(value, ensure_ascii=False)
