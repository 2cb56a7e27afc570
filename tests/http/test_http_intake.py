"""Large bodies: looked at in a thread, and refused before they are parsed when they have too many values."""

import asyncio
import io
import json
import threading
import time
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.test_utils import make_mocked_request

from supervisor.causes import Cause, Refusal
from supervisor.http.density import BOUNDS, check_density
from supervisor.http.intake import LARGE_BODY, read_body
from tests.harness import Agentd
from tests.harness.talk import TALKER

MOST_SECONDS = 0.5  # of a machine with other things to do; before, these bodies took seconds
FIELDS, VALUES = (most for most, _ in BOUNDS.values())


async def threads_of(body: dict[str, Any]) -> set[int]:
    """Where a body is parsed, and where it is made into something."""
    data = json.dumps(body).encode()
    content = StreamReader(Mock(spec=BaseProtocol), 2**20, loop=asyncio.get_running_loop())
    content.feed_data(data)
    content.feed_eof()
    seen: list[int] = []

    def parse(read: bytes) -> dict[str, Any]:
        seen.append(threading.get_ident())
        assert read == data
        return {"parsed": True}

    def make(parsed: dict[str, Any]) -> str:
        seen.append(threading.get_ident())
        assert parsed == {"parsed": True}
        return "made"

    request = make_mocked_request("POST", "/", payload=content)
    assert await read_body(request, 2**20, make, parse) == "made"
    assert len(seen) == 2
    return set(seen)


async def test_small_bodies_are_looked_at_at_once_and_large_ones_in_a_thread() -> None:
    here = threading.get_ident()
    assert await threads_of({}) == {here}
    [there] = await threads_of({"text": "x" * LARGE_BODY})
    assert there != here
    await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"a":"' + b"[{:" * FIELDS + b'"}',
        b'{"a":"' + b'\\"[{:' * FIELDS + b'"}',
        b'{"a":"' + b"\\\\[{:" * FIELDS + b'"}',
        b'{"a":"\\\\\\"' + b"[" * (FIELDS + 1) + b'"}',
        b'{"a":"' + b"," * (VALUES + 1) + b'"}',
        b"[" + b'"[",' * FIELDS + b"0]",
        b"[" + b"0," * VALUES + b"0]",
        b"[" + b"[]," * (FIELDS - 1) + b"0]",
        b"[" + b'"{\\\\",' * FIELDS + b"0]",
    ],
)
def test_texts_with_values_enough(data: bytes) -> None:
    check_density(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[" * (FIELDS + 1), "objects, lists and fields"),
        (b'{"":{' + b'"a":0,' * FIELDS, "objects, lists and fields"),
        (b"[" + b'"\\\\",[],' * FIELDS, "objects, lists and fields"),
        (b"[" + b'"a\\"",{},' * FIELDS, "objects, lists and fields"),
        (b"[" + b"0," * (VALUES + 1), "values"),
        (b"[" + b'"",' * (VALUES + 1), "values"),
    ],
)
def test_texts_with_too_many(data: bytes, words: str) -> None:
    with pytest.raises(Refusal, match=f"more than [0-9]+ {words}") as refused:
        check_density(data)
    assert refused.value.cause is Cause.BODY_INVALID


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("/process", {"input": "hi", "tools": [0] * 900_000}),
    ("/v1/responses", {"input": "hi", "metadata": {f"k{n}": n for n in range(90_000)}}),
    ("/v1/responses", {"input": "hi", "tool_choice": {"type": "allowed_tools", "tools": [0] * 900_000}}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [0] * 900_000}]}),
    ("/turns", {"graph": "talker", "message": "?", "properties": {f"k{n}": n for n in range(90_000)}}),
    ("/process", {"input": "hi", **{f"k{n}": n for n in range(400_000)}}),
]


async def test_nobody_waits_while_a_hostile_body_is_refused(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER])
    over = asyncio.Event()
    longest = 0.0

    async def look() -> None:
        nonlocal longest
        while not over.is_set():
            began = time.monotonic()
            await agentd.get("/health")
            longest = max(longest, time.monotonic() - began)

    bodies = [(path, json.dumps(body).encode()) for path, body in HOSTILE]
    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        for path, data in bodies:
            answer = await agentd.request("POST", path, data=io.BytesIO(data))
            assert answer["status"] in (400, 422), answer
        over.set()
    assert longest < MOST_SECONDS
