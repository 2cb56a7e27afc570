"""What attachments take while they arrive: whoever is not known, or slow, does not hold what others need."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from supervisor.causes import Refusal
from supervisor.http import docsgpt_attachments
from supervisor.http.arrivals import FULL, Arrival, Arrivals
from tests.harness.desk import Desk
from tests.http.test_docsgpt_attachments import END, PART, STORE, B, add_key, send

Build = Callable[..., Awaitable[Any]]
KEY = b'--B\r\nContent-Disposition: form-data; name="api_key"\r\n\r\n'
BIG = ("file", ("b.txt", b"x" * 100_000))
BUSY = (507, "too many attachments arrive now; try again later")
LENGTH = 140_000


@pytest.fixture
async def open_house(build: Build, desk: Desk) -> Build:
    async def make(**settings: Any) -> Any:
        sizes = {"attachment_file_bytes": 200_000, "attachment_request_bytes": 150_000, "token": "t0ken"}
        return await build(attachments=desk.attachments, **{**sizes, **settings})

    return make


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> list[Arrivals]:
    """What the house counts in, once it is open."""
    made: list[Arrivals] = []

    class Noted(Arrivals):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(docsgpt_attachments, "Arrivals", Noted)
    return made


async def arrived(arrivals: list[Arrivals], known: int, unknown: int) -> None:
    """Wait until so much is taken of callers that are known, and of the others; a chunk may not be counted so far."""
    async with asyncio.timeout(30):
        while arrivals[0].known._taken < known or arrivals[0].unknown._taken < unknown:
            await asyncio.sleep(0.005)


class Slow:
    """A client that has sent so much, and sends the rest when it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self, rest: bytes = b"") -> bytes:
        self.writer.write(rest)
        async with asyncio.timeout(30):
            return await self.reader.readuntil(b"}")


@asynccontextmanager
async def slow(house: Any, start: bytes, address: str = "127.0.0.1", headers: str = "") -> AsyncIterator[Slow]:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port, local_addr=(address, 0))
    head = f"POST {STORE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {B['Content-Type']}\r\n{headers}"
    writer.write(head.encode() + f"Content-Length: {LENGTH}\r\n\r\n".encode() + start)
    try:
        yield Slow(reader, writer)
    finally:
        writer.transport.abort()


def told(answer: Any) -> tuple[int, str]:
    return answer.status, answer.body["message"]


async def test_a_key_that_comes_first_is_not_kept_waiting(open_house: Build, arrivals: list[Arrivals]) -> None:
    house = await open_house(upload_total_bytes=150_000)
    key = add_key(house)
    async with slow(house, PART + b"x" * 130_000):
        await arrived(arrivals, 0, 60_000)
        assert told(await send(house, BIG)) == BUSY
        assert (await send(house, ("api_key", key), BIG)).status == 200
        assert told(await send(house, BIG, ("api_key", key))) == BUSY  # nobody can know


async def test_whoever_has_told_the_key_holds_nothing_of_the_others(
    open_house: Build, arrivals: list[Arrivals]
) -> None:
    house = await open_house(upload_total_bytes=150_000)
    key = add_key(house)
    start = PART + b"x" * 100_000 + b"\r\n" + KEY + key.encode() + b"\r\n" + PART + b"x" * 20_000
    async with slow(house, start) as client:
        for _ in range(100):  # the end of a part is seen when more comes after it
            if arrivals[0].known._taken:
                break
            await asyncio.sleep(0.05)
            client.writer.write(b"x" * 100)
        await arrived(arrivals, 100_000, 0)
        assert arrivals[0].unknown._taken == 0
        assert (await send(house, BIG)).status == 401  # there is room for it
        assert told(await send(house, ("api_key", key), BIG)) == BUSY
        assert told(await send(house, BIG, ("api_key", key))) == BUSY
    async with asyncio.timeout(30):
        while (await send(house, ("api_key", key), BIG)).status != 200:
            await asyncio.sleep(0.01)
    assert (arrivals[0].known._taken, arrivals[0].unknown._taken, dict(arrivals[0].of_address)) == (0, 0, {})


async def test_one_address_does_not_hold_all(open_house: Build, arrivals: list[Arrivals]) -> None:
    house = await open_house(upload_total_bytes=400_000)
    key = add_key(house)
    async with slow(house, PART + b"x" * 130_000):
        await arrived(arrivals, 0, 60_000)
        assert told(await send(house, BIG, ("api_key", key))) == BUSY
        tail = b"\r\n" + KEY + key.encode() + END
        async with slow(house, PART + b"x" * (LENGTH - len(PART) - len(tail)) + tail, "127.0.0.2") as other:
            assert (await other.answer()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("known", ["no", "header", "key"])
async def test_a_trickle_is_refused(open_house: Build, desk: Desk, monkeypatch: pytest.MonkeyPatch, known: str) -> None:
    """However much was sent before at once; whoever is known may take the time."""
    monkeypatch.setattr(docsgpt_attachments, "PACE_SECONDS", 0.3)
    house = await open_house()
    key = add_key(house)
    start = {"no": b"", "header": b"", "key": KEY + key.encode() + b"\r\n"}[known] + PART + b"x" * 100_000
    headers = f"Authorization: Bearer {key}\r\n" if known == "header" else ""
    sent = 0
    async with slow(house, start, headers=headers) as client:

        async def drip() -> None:
            nonlocal sent
            while known == "no" or sent < 100:
                client.writer.write(b"y" * 2)
                sent += 2
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        if known == "no":
            answer = await client.answer()
            dripping.cancel()
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"Missing file(s)" in answer
            assert sent < 500
            assert list(desk.attachments.incoming.iterdir()) == []
        else:
            await dripping
            answer = await client.answer(b"z" * (LENGTH - len(start) - sent - len(END)) + END)
            assert answer.startswith(b"HTTP/1.1 200 ")


async def test_what_keeps_its_pace_is_taken(open_house: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docsgpt_attachments, "PACE_SECONDS", 0.2)
    house = await open_house()
    start = PART + b"x" * 1000
    async with slow(house, start) as client:
        for _ in range(20):
            await asyncio.sleep(0.05)
            client.writer.write(b"y" * 1000)
        tail = b"\r\n" + KEY + add_key(house).encode() + END
        answer = await client.answer(b"z" * (LENGTH - len(start) - 20_000 - len(tail)) + tail)
        assert answer.startswith(b"HTTP/1.1 200 ")


def test_all_is_given_back() -> None:
    arrivals = Arrivals(1000, 100)
    first, second = Arrival(arrivals, "a"), Arrival(arrivals, "a")
    first.take(200)
    second.take(50)
    with pytest.raises(Refusal, match=FULL):
        second.take(1)
    assert not any(letter.isdigit() for letter in FULL)
    first.give(10)
    first.know()
    first.know()
    first.take(800)
    assert (arrivals.known._taken, arrivals.unknown._taken, dict(arrivals.of_address)) == (990, 50, {"a": 50})
    with pytest.raises(Refusal, match=FULL):
        second.know()
    first.clear()
    first.clear()
    second.know()
    assert (arrivals.known._taken, arrivals.unknown._taken, dict(arrivals.of_address)) == (50, 0, {})
    second.clear()
    assert arrivals.known._taken == 0
