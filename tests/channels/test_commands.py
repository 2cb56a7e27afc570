"""Commands for workers: replies that come, that do not, that are none; and by HTTP for foreign ones."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.channels import commands, foreign_commands
from supervisor.channels.commands import Commands
from supervisor.processes.link import LinkFullError
from worker.frames import Frame, FrameError, encode

PAYLOAD = {"ten": {"name": "file_chunk", "type": "cmd"}, "filename": "日本.txt"}


class Pipe:
    """What was sent, and what to do with it."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self.commands = Commands(self.send)
        self.react: Callable[[Frame], None] = lambda _: None

    def send(self, frame: Frame) -> None:
        encode(frame)
        self.sent.append(frame)
        asyncio.get_running_loop().call_soon(self.react, frame)


@pytest.fixture
async def pipe() -> Pipe:
    return Pipe()


async def refused(asked: Any) -> str:
    with pytest.raises(Refusal) as caught:
        await asked
    assert caught.value.cause is Cause.COMMAND_UNDELIVERED
    return caught.value.detail


async def test_a_reply_answers_its_own_command(pipe: Pipe) -> None:
    held: list[Frame] = []

    def react(frame: Frame) -> None:
        held.append(frame)
        if len(held) == 3:
            for one in reversed(held):
                pipe.commands.answered({"t": "reply", "id": one["id"], "ok": True, "result": one["payload"]["k"]})

    pipe.react = react
    replies = await asyncio.gather(*(pipe.commands.ask({"k": k}) for k in "abc"))
    assert [reply["result"] for reply in replies] == ["a", "b", "c"]
    assert len({frame["id"] for frame in pipe.sent}) == 3


async def test_a_refusal_of_the_worker_is_told(pipe: Pipe) -> None:
    pipe.react = lambda frame: pipe.commands.answered({"id": frame["id"], "ok": False, "error": "no node handles it"})
    assert await refused(pipe.commands.ask(PAYLOAD)) == "the worker refused: no node handles it"


@pytest.mark.parametrize("number", [None, "1", [], {}, 99, 1.5])
async def test_replies_to_nothing_are_dropped(pipe: Pipe, number: Any) -> None:
    def react(frame: Frame) -> None:
        pipe.commands.answered({"id": number, "ok": False})
        pipe.commands.answered({"id": frame["id"], "ok": True})
        pipe.commands.answered({"id": frame["id"], "ok": False})

    pipe.react = react
    assert (await pipe.commands.ask(PAYLOAD))["ok"]


async def test_a_worker_that_does_not_reply(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "SECONDS", 0.01)
    assert await refused(pipe.commands.ask(PAYLOAD)) == "no reply within 0.01 s"


@pytest.mark.parametrize("error", [LinkFullError("full"), FrameError("too long"), OSError("closed")])
async def test_a_worker_that_cannot_be_told(error: Exception) -> None:
    def send(_: Frame) -> None:
        raise error

    assert await refused(Commands(send).ask(PAYLOAD)) == f"the worker cannot be told: {error}"


async def test_nobody_waits_for_a_worker_that_ended(pipe: Pipe) -> None:
    pipe.react = lambda _: pipe.commands.close()
    assert "ended before" in await refused(pipe.commands.ask(PAYLOAD))


# ---------------------------------------------------------------------- foreign workers


@asynccontextmanager
async def listening(answer: bytes | None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on a port of its own that answers any request with these bytes (None: never); what it was sent."""
    requests: list[bytes] = []
    enough = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            requests.append(head + await reader.readexactly(length))
            if answer is None:
                await enough.wait()
            else:
                writer.write(answer)
                await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        enough.set()
        server.close()
        await server.wait_closed()


def response(status: str, body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


async def test_a_foreign_worker_gets_a_post() -> None:
    async with listening(response("200 OK")) as (port, requests):
        await foreign_commands.deliver(port, PAYLOAD)
    [request] = requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /cmd HTTP/1.1\r\n")
    assert b"content-type: application/json" in head.lower()
    assert json.loads(body) == PAYLOAD


@pytest.mark.parametrize("status", ["201 Created", "302 Found", "400 Bad Request", "500 Oops"])
async def test_only_200_is_success(status: str) -> None:
    async with listening(response(status)) as (port, requests):
        assert f"status {status[:3]}" in await refused(foreign_commands.deliver(port, PAYLOAD))
    assert len(requests) == 1


async def test_what_is_no_http_is_no_success() -> None:
    async with listening(b"\x00\xffgarbage\r\n\r\n") as (port, _):
        assert "cannot be reached" in await refused(foreign_commands.deliver(port, PAYLOAD))


async def test_a_worker_that_hangs_up() -> None:
    async with listening(b"") as (port, _):
        assert "cannot be reached" in await refused(foreign_commands.deliver(port, PAYLOAD))


async def test_the_time_is_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_commands, "SECONDS", 0.05)
    async with listening(None) as (port, _):
        assert "did not answer within 0.05 s" in await refused(foreign_commands.deliver(port, PAYLOAD))


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "cannot be reached" in await refused(foreign_commands.deliver(port, PAYLOAD))


async def test_a_graph_without_a_port() -> None:
    assert "no node with an injected port" in await refused(foreign_commands.deliver(0, PAYLOAD))
