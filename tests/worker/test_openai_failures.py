"""`openai_chatgpt` in real workers, against a real server on loopback: what goes wrong."""

import asyncio
import base64
import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.openai_server import (
    Exchange,
    OpenAIServer,
    cut,
    deltas,
    events,
    silent,
    status,
    whole,
    words,
)
from tests.harness.openai_worker import OpenAIWorker, text

SECRET = "sk-proj-Ab1Cd2Ef3Gh4Ij5Kl6Mn7Op8Qr9"
PROMPTLY = 1.0  # seconds


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer().running() as server:
        yield server


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[OpenAIWorker]:
    worker = OpenAIWorker(tmp_path / "channel")
    yield worker
    await worker.close()


def chunk(**delta: Any) -> Any:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


# What the server does, what was said until then, the error's kind, and what its text says.
FAILURES = [
    (status(400, "bad thing"), "", "ModelRefusedError", "answered 400: bad thing"),
    (status(401, "who?"), "", "ModelRefusedError", "answered 401: who. - check the node's property api_key"),
    (
        status(404, "no such model", error={"code": "model_not_found"}),
        "",
        "ModelRefusedError",
        r"\(model_not_found\): no s",
    ),
    (status(429, "too fast", Retry_After="7"), "", "ModelUnavailableError", "429: too fast - it asks to wait 7 s"),
    (status(500, "oops"), "", "ModelUnavailableError", "answered 500: oops"),
    (whole("<html>Welcome</html>", "text/html"), "", "AnswerInvalidError", "answered with 'text/html; charset=utf-8'"),
    (whole('{"choices": []}', "application/json"), "", "AnswerInvalidError", "check the node's property base_url"),
    (events(b'{"choices"'), "", "AnswerInvalidError", "sent no JSON in a chunk"),
    (events(b"\xff\xfe"), "", "AnswerInvalidError", "sent no JSON in a chunk"),
    (events(["a", "list"]), "", "AnswerInvalidError", "a chunk that is none"),
    (events(chunk(content="a"), chunk(content={"b": 1})), "a", "AnswerInvalidError", "a chunk that is none"),
    (events({"choices": []}, b"[DONE]"), "", "ModelUnavailableError", "its stream ended before the answer began"),
    (events(b"[DONE]"), "", "ModelUnavailableError", "its stream ended before the answer began"),
    (events(chunk(content="a")), "a", "StreamBrokenError", "ended without saying that it is complete"),
    (events({"error": {"message": "overloaded"}}), "", "ModelUnavailableError", "no answer from .*: overloaded"),
    (events(chunk(content="a"), {"error": {"message": "died"}}), "a", "StreamBrokenError", "broke off: died"),
    (words("bad", finish="content_filter"), "bad", "ContentFilteredError", "content filter"),
    (
        deltas({"tool_calls": [{"index": 0, "id": "c"}]}, finish="tool_calls"),
        "",
        "AnswerInvalidError",
        "without the na",
    ),
    (cut(head=False), "", "ModelUnavailableError", "no answer from the model server http://127.0.0.1:.*/v1: "),
    (cut(), "", "ModelUnavailableError", "no answer from the model server"),
    (cut("said", " this"), "said this", "StreamBrokenError", "broke off: .*; what was said stands"),
]


async def test_each_failure_ends_its_turn_and_not_the_worker(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url, "retries": 0})
    for number, (reply, said, kind, told) in enumerate(FAILURES):
        server.will(reply)
        *before, end = await worker.turn(f"failure {number}")
        assert (end["type"], end.get("cause"), end.get("kind")) == ("error", "agent_error", kind), (number, end)
        assert re.search(told, end["message"]), (number, end)
        assert text(before) == said, (number, before)
    assert text(await worker.turn()) == "Hello there."
    assert len(server.bodies) == len(FAILURES) + 1
    assert await worker.stop() == 0


async def test_what_passes_is_tried_again(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url, "retries": 3})
    server.will(
        status(429, "slow down", retry_after_ms="300"),
        status(500, "oops", retry_after_ms="10"),
        status(503, "busy", retry_after="0"),
    )
    assert text(await worker.turn()) == "Hello there."
    times = [exchange.at for exchange in server.exchanges]
    assert len(times) == 4
    assert times[1] - times[0] >= 0.3
    assert times[3] - times[1] < 0.3
    assert len({str(body) for body in server.bodies}) == 1


@pytest.mark.parametrize(
    "reply", [cut(head=False), cut(), events({"choices": []}, b"[DONE]")], ids=["head", "role", "empty"]
)
async def test_a_stream_that_breaks_before_the_first_token_is_tried_again(
    worker: OpenAIWorker, server: OpenAIServer, reply: Any
) -> None:
    await worker.start({"base_url": server.url, "retries": 1})
    server.will(reply)
    assert text(await worker.turn()) == "Hello there."
    assert len(server.exchanges) == 2


@pytest.mark.parametrize("ending", ["silence", "cut"])
async def test_an_answer_is_whole_when_it_says_so(worker: OpenAIWorker, server: OpenAIServer, ending: str) -> None:
    """What should come after it, the usage and the end, is not waited for as long as a token, nor missed."""

    async def reply(exchange: Exchange) -> None:
        await exchange.delta(content="all")
        await exchange.delta("stop")
        if ending == "cut":
            exchange.cut()
        else:
            await asyncio.Event().wait()

    await worker.start({"base_url": server.url})
    server.will(reply)
    assert [event["type"] for event in await worker.turn()] == ["text", "final"]
    assert "openai.end_missing" in worker.said()


async def test_after_the_first_token_nothing_is_tried_again(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url, "retries": 5})
    server.will(cut("said"))
    assert (await worker.turn())[-1]["kind"] == "StreamBrokenError"
    assert len(server.exchanges) == 1


@pytest.mark.parametrize(
    ("replies", "requests", "told"),
    [
        ([status(500, "a", retry_after_ms="1")] * 5, 3, "500 .tried 3 times.: a"),
        ([status(429, "a", retry_after="3600")], 1, "it asks to wait 3600 s"),  # longer than we would wait
        ([status(429, "a", error={"code": "insufficient_quota"})], 1, "insufficient_quota"),
        ([status(500, "a", x_should_retry="false")], 1, "answered 500: a"),
        ([status(400, "a")], 1, "answered 400: a"),
    ],
)
async def test_tries_are_bounded(
    worker: OpenAIWorker, server: OpenAIServer, replies: Any, requests: int, told: str
) -> None:
    await worker.start({"base_url": server.url, "retries": 2})
    server.will(*replies)
    end = (await worker.turn())[-1]
    assert re.search(told, end["message"]), end
    assert len(server.exchanges) == requests


async def test_nobody_listens(worker: OpenAIWorker) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    await worker.start({"base_url": f"http://127.0.0.1:{port}/v1", "retries": 1})
    end = (await worker.turn())[-1]
    assert end["kind"] == "ModelUnavailableError"
    assert re.search(
        rf"no answer from the model server http://127.0.0.1:{port}/v1 \(tried 2 times\): Connect", end["message"]
    )


async def trickle(exchange: Exchange) -> None:
    while True:
        await exchange.delta(content="a")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("reply", "name", "said", "told"),
    [
        (silent(head=False), "first_token_seconds", "", "sent no token of an answer within 0.4 s"),
        (silent(), "first_token_seconds", "", "sent no token of an answer within 0.4 s"),
        (silent("a"), "idle_seconds", "a", "sent nothing more of its answer within 0.4 s"),
        (trickle, "request_timeout", "aa", "sent no whole answer within 0.4 s"),
    ],
)
async def test_silence_is_bounded(
    worker: OpenAIWorker, server: OpenAIServer, reply: Any, name: str, said: str, told: str
) -> None:
    await worker.start({"base_url": server.url, name: 0.4})
    server.will(reply)
    *before, end = await worker.turn()
    assert end["kind"] == "ModelSilentError"
    assert told in end["message"]
    assert f"property {name}" in end["message"]
    assert text(before).startswith(said)
    async with asyncio.timeout(PROMPTLY):
        await server.exchanges[0].gone.wait()
    assert len(server.exchanges) == 1
    assert text(await worker.turn()) == "Hello there."


@pytest.mark.parametrize(
    ("reply", "said"),
    [(silent("a"), True), (trickle, True), (silent(), False), (silent(head=False), False)],
    ids=["mid", "flow", "role", "head"],
)
async def test_a_cancelled_turn_hangs_up(worker: OpenAIWorker, server: OpenAIServer, reply: Any, said: bool) -> None:
    await worker.start({"base_url": server.url})
    server.will(reply)
    turn = worker.ask()
    exchange = await server.exchange(0)
    if said:
        await worker.event(turn, lambda event: event["type"] == "text")
    worker.cancel(turn)
    async with asyncio.timeout(PROMPTLY):
        await exchange.gone.wait()
        end = (await worker.ended(turn))[-1]
    assert (end["type"], end["cause"]) == ("error", "turn_cancelled")
    assert text(await worker.turn()) == "Hello there."


async def test_a_turn_is_cancelled_between_two_tries(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url})
    server.will(status(429, "later", retry_after="20"))
    turn = worker.ask()
    await (await server.exchange(0)).over.wait()
    worker.cancel(turn)
    async with asyncio.timeout(PROMPTLY):
        assert (await worker.ended(turn))[-1]["cause"] == "turn_cancelled"


async def test_a_stop_hangs_up(worker: OpenAIWorker, server: OpenAIServer) -> None:
    await worker.start({"base_url": server.url})
    server.will(silent("a"))
    turn = worker.ask()
    await worker.event(turn, lambda event: event["type"] == "text")
    assert await worker.stop() == 0
    async with asyncio.timeout(PROMPTLY):
        await server.exchanges[0].gone.wait()


# ---------------------------------------------------------------------- keys


async def test_without_a_key_a_turn_says_what_is_missing(worker: OpenAIWorker) -> None:
    await worker.start({"api_key": ""})
    [end] = await worker.turn()
    assert (end["cause"], end["kind"]) == ("agent_error", "KeyMissingError")
    for word in ("OPENAI_API_KEY", "api_key", "'model'", "https://api.openai.com/v1"):
        assert word in end["message"]
    assert await worker.stop() == 0


async def test_the_key_is_never_told(worker: OpenAIWorker, server: OpenAIServer) -> None:
    """The server echoes it, whole and masked, in the body of its refusal, in a retried one, and in its stream."""
    url = server.url.replace("//", f"//ada:{SECRET[::-1]}@") + f"?code={SECRET[4:]}"
    await worker.start({"base_url": url, "api_key": SECRET, "retries": 1})
    basic = base64.b64encode(f"ada:{SECRET[::-1]}".encode()).decode()
    replies = [
        status(500, f"{SECRET} {SECRET[::-1]} {SECRET[4:]} {basic}", retry_after_ms="1"),
        status(401, f"Incorrect API key provided: {SECRET[:8]}{'*' * 20}{SECRET[-4:]}."),
        events({"error": {"message": f"key {SECRET} is over its limit", "code": SECRET}}),
        events({"error": {"message": f"key {SECRET} is over its limit"}}),
        events({"choices": SECRET}),
        whole(SECRET, f"text/{SECRET}"),
        status(400, "x" * 995 + SECRET),
    ]
    server.will(*replies)
    while server.replies:
        assert (await worker.turn())[-1]["type"] == "error"
    worker.tell({"t": "update", "id": 1, "properties": {"model": {"temperature": 9}}})
    await worker.frame(lambda frame: frame["t"] == "reply")
    worker.tell({"t": "update", "id": 2, "properties": {"model": {"api_key": f"{SECRET} x"}}})
    await worker.frame(lambda frame: frame["t"] == "reply" and frame["id"] == 2)
    assert await worker.stop() == 0
    told = json.dumps(worker.frames) + worker.said()
    assert "openai.retry" in told
    for secret in (SECRET, SECRET[::-1], SECRET[4:], SECRET[-4:], SECRET[:8], basic):
        assert secret not in told, told[max(0, told.index(secret) - 200) :][:400]


async def test_a_refused_key_is_echoed_by_the_server_and_not_by_us(worker: OpenAIWorker, server: OpenAIServer) -> None:
    server.key = "another"
    await worker.start({"base_url": server.url, "api_key": f"{SECRET}\n"})
    [end] = await worker.turn()
    assert end["kind"] == "ModelRefusedError"
    assert "(invalid_api_key)" in end["message"]
    assert "Incorrect API key provided: [hidden] ([hidden])" in end["message"]
    assert server.exchanges[0].request.headers["Authorization"] == f"Bearer {SECRET}"


# ---------------------------------------------------------------------- TLS


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed, which makes the certificate")
@pytest.mark.parametrize("trusted", [True, False])
async def test_a_server_with_tls_is_checked(
    worker: OpenAIWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with OpenAIServer().running(tls) as server:
        await worker.start({"base_url": server.url, "retries": 0})
        got = await worker.turn()
        if trusted:
            assert text(got) == "Hello there.", got
            server.will(silent("a"))
            turn = worker.ask()
            await worker.event(turn, lambda event: event["type"] == "text")
            worker.cancel(turn)
            async with asyncio.timeout(PROMPTLY):
                await server.exchanges[-1].gone.wait()
                await worker.ended(turn)
        else:
            assert got[-1]["kind"] == "ModelUnavailableError"
            assert "CERTIFICATE_VERIFY_FAILED" in got[-1]["message"]
