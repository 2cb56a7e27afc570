"""`agentd chat` without a terminal, in front of a server that answers well, badly, slowly or not at all."""

import asyncio
import json
import signal
import socket
from typing import Any

import pytest

from supervisor.causes import Cause
from tests.harness.impostor import Exchange, Impostor, refuses, says
from tests.harness.terminal import SECONDS

HOSTILE = "\x1b[31mr\x07\u202e日👋\n"


async def test_a_message(impostor: Impostor) -> None:
    impostor.replies.append(says("Hello", " Ada", "!"))
    done = await impostor.run("g", "--message", "hi", "--user", "ada", "--session", "s", "--property", "n.p=5")
    assert (done.code, done.out, done.err) == (0, "Hello Ada!\n", "")
    body = {"graph": "g", "user": "ada", "session": "s", "message": "hi", "properties": {"n": {"p": 5}}, "stream": True}
    assert [exchange.body for exchange in impostor.exchanges] == [body]


async def test_every_line_is_a_turn_of_one_session(impostor: Impostor) -> None:
    impostor.replies.extend([says("one\n"), says(), says("two\n", "lines"), says(value={"a": "ü"})])
    done = await impostor.run("g", lines="a b\n\n \r\n/quit\r\n日本\nlast".encode())
    assert (done.code, done.out, done.err) == (0, 'one\ntwo\nlines\n{"a": "ü"}\n', "")
    assert [exchange.body["message"] for exchange in impostor.exchanges] == ["a b", "/quit", "日本", "last"]
    [session] = {exchange.body["session"] for exchange in impostor.exchanges}
    assert session.startswith("chat-")


async def test_an_answer_is_there_as_it_comes(impostor: Impostor) -> None:
    go_on = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        await exchange.begin()
        for text in ("one ", "two ", "three"):
            await exchange.say(text)
            await go_on.wait()
            go_on.clear()
        await exchange.final()

    impostor.replies.append(slowly)
    process = await impostor.begin("g")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"count\n")
    async with asyncio.timeout(SECONDS):
        for text in (b"one ", b"two ", b"three"):
            assert await process.stdout.readexactly(len(text)) == text
            go_on.set()
        assert await process.stdout.readexactly(1) == b"\n"
        process.stdin.close()
        assert await process.wait() == 0


async def everything(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.event("thought", text="hm")
    await exchange.event("tool_call", id="1", name="look", arguments={"room": 4})
    await exchange.event("tool_result", id="1", name="look", output="free\nnow", failed=False, ms=2.0)
    await exchange.raw(b": keep-alive\n\n")
    await exchange.say("Fr", "ee.")
    await exchange.event("structured", value={"free": True}, schema=None)
    await exchange.event("source", title="Plan", text="...", source="plan.md")
    await exchange.event("usage", input_tokens=9, output_tokens=4, total_tokens=13, model="m")
    await exchange.event("something_new", what="?")
    await exchange.final(lost=2)


async def test_answers_only_but_with_verbose_all_else_on_stderr(impostor: Impostor) -> None:
    impostor.replies.extend([everything, everything])
    done = await impostor.run("g", "-m", "x")
    answer = 'Free.\n{"free": true}\n'
    lost = "2 events of this turn were lost; the server's log says why\n"
    assert (done.code, done.out, done.err) == (0, answer, lost)
    done = await impostor.run("g", "-m", "x", "--verbose")
    assert (done.code, done.out) == (0, answer)
    assert done.err.splitlines() == [
        "-> look(room=4)",
        '<- look: "free\\nnow"',
        lost.strip(),
        "[1] Plan - plan.md",
        "m, 9 tokens in, 4 tokens out, 13 in all, 1.23 s",
    ]


async def test_json_is_every_event(impostor: Impostor) -> None:
    impostor.replies.append(everything)
    done = await impostor.run("g", "-m", "x", "--json", "--session", "s")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert events[0] == {"type": "turn", "turn": "turn-1", "channel": "the/channel", "graph": "g", "session": "s"}
    kinds = "thought tool_call tool_result text text structured source usage something_new final"
    assert [event["type"] for event in events[1:]] == kinds.split()
    assert (done.code, done.err) == (0, "")


async def test_into_a_pipe_an_answer_goes_as_it_is(impostor: Impostor) -> None:
    impostor.replies.extend([says(HOSTILE), says("日\ud83d")])
    assert (await impostor.run("g", "-m", "x")).out == HOSTILE
    assert (await impostor.run("g", "-m", "x", PYTHONIOENCODING="ascii")).out == "\\u65e5\\ud83d\n"


async def test_a_failed_turn_does_not_keep_the_other_lines_from_theirs(impostor: Impostor) -> None:
    async def fails(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say("half of")
        await exchange.fail("agent_error", "no \x1b[2J such thing")

    impostor.replies.extend([fails, refuses(Cause.GRAPH_UNKNOWN, "no graph 'g'"), says("well")])
    done = await impostor.run("g", lines=b"a\nb\nc\n")
    assert (done.code, done.out) == (1, "half of\nwell\n")
    assert done.err.splitlines() == [
        "agentd: the agent raised an error [agent_error]",
        "  detail: no \\x1b[2J such thing",
        "  next step: do this",
        "agentd: the property file has no graph of this name [graph_unknown]",
        "  detail: no graph 'g'",
        "  next step: choose one that `agentd graphs` lists",
    ]
    impostor.replies.extend([fails])
    done = await impostor.run("g", "--json", "-m", "a")
    assert [json.loads(line)["type"] for line in done.out.splitlines()] == ["turn", "text", "error"]
    assert (done.code, json.loads(done.err)["error"]["cause"]) == (1, "agent_error")


async def cut_in_the_middle(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("half of")
    exchange.cut()


async def end_without_an_end(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("half of")


async def garbage(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("half of")
    await exchange.raw(b"event: text\ndata: {nonsense\n\n")
    await exchange.final()


async def no_object(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("half of")
    await exchange.raw(b"event: text\ndata: [1]\n\n")


async def too_deep(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("half of")
    await exchange.raw(b"data: " + b"[" * 100_000 + b"\n\n")


async def flood(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("half of")
    while True:
        await exchange.raw(b"x" * 65536)


async def no_chunk(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("half of")
    assert isinstance(exchange.request.transport, asyncio.Transport)
    exchange.request.transport.write(b"no length\r\n")
    await asyncio.Event().wait()


async def huge_chunk(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say("half of")
    assert isinstance(exchange.request.transport, asyncio.Transport)
    exchange.request.transport.write(b"fffffffffffffff\r\nevent: text\r\n")
    exchange.request.transport.close()


@pytest.mark.parametrize(
    ("reply", "cause", "detail"),
    [
        (cut_in_the_middle, "connection_lost", ""),
        (end_without_an_end, "connection_lost", "before the turn was over"),
        (garbage, "stream_invalid", "text: Expecting property name"),
        (no_object, "stream_invalid", "text: '[1]' is no object"),
        (too_deep, "stream_invalid", "message: maximum recursion depth"),
        (flood, "stream_invalid", "more than 4194304 bytes"),
        (no_chunk, "connection_lost", ""),
        (huge_chunk, "connection_lost", ""),
    ],
)
async def test_an_answer_that_breaks_off(impostor: Impostor, reply: Any, cause: str, detail: str) -> None:
    impostor.replies.extend([reply, says("well")])
    done = await impostor.run("g", "--json", lines=b"a\nb\n")
    assert [event["text"] for line in done.out.splitlines() if (event := json.loads(line)).get("text")] == [
        "half of",
        "well",
    ]
    [line] = done.err.splitlines()
    error = json.loads(line)["error"]
    assert (done.code, error["cause"]) == (1, cause)
    assert detail in error["detail"]
    assert error["next_step"]


async def test_silence(impostor: Impostor) -> None:
    async def falls_silent(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say("half of")
        await asyncio.Event().wait()

    impostor.replies.append(falls_silent)
    done = await impostor.run("g", "-m", "x", patch="asking.SILENCE_SECONDS = 0.2")
    assert (done.code, done.out) == (1, "half of\n")
    assert done.err.splitlines()[:2] == [
        "agentd: the answer broke off [connection_lost]",
        f"  detail: agentd at {impostor.url} has said nothing for 0.2 s",
    ]
    async with asyncio.timeout(SECONDS):
        await impostor.exchanges[0].gone.wait()


async def test_signs_of_life_are_no_silence(impostor: Impostor) -> None:
    async def lives(exchange: Exchange) -> None:
        await exchange.begin()
        for _ in range(20):
            await exchange.raw(b": keep-alive\n\n")
            await asyncio.sleep(0.05)  # its pace
        await exchange.say("at last")
        await exchange.final()

    impostor.replies.append(lives)
    done = await impostor.run("g", "-m", "x", patch="asking.SILENCE_SECONDS = 0.8")
    assert (done.code, done.out) == (0, "at last\n")


@pytest.mark.parametrize("patience", ["", "asking.REST_SECONDS = 0.1"])
async def test_a_server_that_goes_on_after_the_end(impostor: Impostor, patience: str) -> None:
    async def never_ends(exchange: Exchange) -> None:
        await says("done")(exchange)
        if patience:
            await asyncio.Event().wait()
        while True:
            await exchange.say("more")

    impostor.replies.append(never_ends)
    done = await impostor.run("g", "-m", "x", patch=patience)
    assert (done.code, done.out, done.err) == (0, "done\n", "")


async def test_wrong_token_other_server_no_server(impostor: Impostor) -> None:
    done = await impostor.run("g", lines=b"a\nb\n", AGENTD_TOKEN="wrong")
    assert (done.code, done.out, impostor.exchanges) == (1, "", [])
    assert done.err.count("agentd: the request carries no valid token or key [unauthorized]\n") == 2
    done = await impostor.run("g", "-m", "x", "--server", impostor.url + "/elsewhere")
    assert (done.code, done.err.splitlines()[1]) == (1, "  detail: HTTP 404, 14 bytes of text/plain")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = await impostor.run("g", "--server", f"http://127.0.0.1:{free.getsockname()[1]}", lines=b"a\nb\n")
    assert (done.code, done.out) == (3, "")
    assert done.err.count("[unreachable]") == 1


async def test_an_answer_that_is_no_stream(impostor: Impostor) -> None:
    async def whole(exchange: Exchange) -> Any:
        from aiohttp import web

        return web.json_response({"turn": exchange.id, "text": "hello"})

    impostor.replies.append(whole)
    done = await impostor.run("g", "-m", "x")
    assert (done.code, done.err.splitlines()[1]) == (1, "  detail: HTTP 200, no events of application/json")


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("g", "-m", " "), b""),
        (("g", "-m", "x", "--property", "a=b"), b""),
        ((), b""),
        (("g",), b"\xff\n"),
        (("g",), b"x" * (1 << 20) + b"x\n"),
    ],
)
async def test_wrong_usage(impostor: Impostor, arguments: Any, lines: bytes) -> None:
    done = await impostor.run(*arguments, lines=lines)
    assert (done.code, done.out, impostor.exchanges) == (2, "", [])
    assert "Traceback" not in done.err


async def test_the_longest_line(impostor: Impostor) -> None:
    impostor.replies.extend([says("long"), says("short")])
    done = await impostor.run("g", lines=b"x" * (1 << 20) + b"\ny\n")
    assert (done.code, done.out, done.err) == (0, "long\nshort\n", "")


async def test_ctrl_c_cancels_and_leaves(impostor: Impostor) -> None:
    async def until_cancelled(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say("half of")
        await exchange.cancelled.wait()
        await exchange.say(" it")
        await exchange.fail("turn_cancelled")

    impostor.replies.append(until_cancelled)
    process = await impostor.begin("g")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"count\nnever asked\n")
    async with asyncio.timeout(SECONDS):
        await process.stdout.readexactly(len("half of"))
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b" it\n", b"")
    assert impostor.deleted == ["/channels/the/channel/turns/turn-1"]
    assert len(impostor.exchanges) == 1


async def test_ctrl_c_while_nothing_is_asked(impostor: Impostor) -> None:
    impostor.replies.append(says("hello"))
    process = await impostor.begin("g")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"x\n")
    async with asyncio.timeout(SECONDS):
        assert await process.stdout.readline() == b"hello\n"
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")


async def test_a_reader_that_goes_away_is_no_traceback(impostor: Impostor) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.begin()
        while True:
            await exchange.say("more\n")

    impostor.replies.append(endless)
    process = await impostor.begin("g", "-m", "x")
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(SECONDS):
        assert await process.stdout.readline() == b"more\n"
        process._transport.get_pipe_transport(1).close()
        err = await process.stderr.read()
        await process.wait()
        await impostor.exchanges[0].gone.wait()
    assert (process.returncode, err.decode()) == (1, "")
