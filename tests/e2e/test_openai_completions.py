"""Chat completions and models as the official SDK asks for them, with a real server, agents and workers."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.harness import Agentd
from tests.harness.openai_server import OpenAIServer, calls, deltas, words
from tests.harness.scripted import graph, install
from tests.harness.server import PATIENCE
from tests.harness.talk import client, recorded, turn_rows

MEMORY = 512 * 1024 * 1024
PATH = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}
USAGE = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


GRAPHS = [
    graph("friday", "friday", pace_ms=0),
    graph("scripted", "scripted"),
    graph("small", "scripted") | {"agentd": {"limits": {"memory_bytes": MEMORY}}},
    graph("a/b", "friday", name="Slash"),
]


@pytest.fixture
async def server(agentd: Agentd, tmp_path: Path) -> Agentd:
    install(agentd, tmp_path)
    return agentd


def sdk(server: Agentd, prefix: str = "/v1", **more: Any) -> AsyncOpenAI:
    more = {"api_key": "any", "max_retries": 0, "timeout": PATIENCE, **more}
    return AsyncOpenAI(base_url=server.address + prefix, _strict_response_validation=True, **more)


def user(*script: Any) -> Any:
    return {"role": "user", "content": json.dumps(script) if isinstance(script[0], list) else script[0]}


async def chunks(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


def text_of(found: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in found if chunk.choices)


async def frames(server: Agentd, *script: Any, **more: Any) -> AsyncIterator[Any]:
    """The data of every frame of a stream, as text or JSON."""
    body = {"messages": [user(*script)], "stream": True, **more}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
        session.post(server.address + PATH, json=body) as response,
    ):
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        async for line in response.content:
            if line.startswith(b"data: "):
                data = line[6:].decode().strip()
                yield data if data == "[DONE]" else json.loads(data)


async def pid_of(server: Agentd, name: str) -> int:
    """The worker of the one channel of this graph."""
    [channel] = [c for c in (await server.get("/channels"))["channels"] if c["graph"] == name]
    return int(channel["pid"])


async def ended_turn(server: Agentd, cause: str) -> Any:
    """The record of the turn that ended so, waited for."""
    async with asyncio.timeout(PATIENCE):
        while not (found := [row for row in turn_rows(server).values() if row["cause"] == cause]):
            await asyncio.sleep(0.02)
    return found[0]


# ---------------------------------------------------------------------- what the SDK does


@pytest.mark.parametrize("prefix", ["/v1", "/compatible-mode/v1"])
async def test_the_sdk(server: Agentd, prefix: str) -> None:
    await server.start(graphs=GRAPHS)
    async with sdk(server, prefix) as ai:
        answer = await ai.chat.completions.create(model="any_name", messages=[user("Who are you?")])
        assert (answer.model, answer.object, answer.usage) == ("any_name", "chat.completion", None)
        [choice] = answer.choices
        assert "Friday" in (choice.message.content or "")
        assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)

        # all that was said before comes with the call
        said = [user("My name is Ada."), {"role": "assistant", "content": "Hello, Ada."}]
        answer = await ai.chat.completions.create(model="gpt-4o", messages=[*said, user("What is my name?")])
        assert answer.choices[0].message.content == "Your name is Ada."
        answer = await ai.chat.completions.create(model="gpt-4o", messages=[user("What is my name?")])
        assert "not" in (answer.choices[0].message.content or "")

        found = await chunks(await ai.chat.completions.create(model="any", messages=[user("count to 9")], stream=True))
        assert text_of(found) == "1 2 3 4 5 6 7 8 9"
        assert len({chunk.id for chunk in found}) == 1
        assert found[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].finish_reason for chunk in found][-2:] == [None, "stop"]
        assert len(found) == 11

        # a graph by its name, and what it is asked
        script = ["think", "hm"], ["usage", [2, 3]], ["request", None]
        answer = await ai.chat.completions.create(
            model="scripted",
            messages=[{"role": "system", "content": "Be"}, {"role": "developer", "content": "brief"}, user(*script)],
            temperature=0,
            tools=[TOOL],  # type: ignore[list-item]
            user="ada",
        )
        message = answer.choices[0].message
        asked = json.loads(message.content or "")
        assert (asked["instructions"], asked["session"], asked["user"]) == ("Be\n\nbrief", None, "ada")
        assert asked["options"] == {"temperature": 0, "tools": [TOOL]}
        assert message.model_extra == {"reasoning_content": "hm"}
        assert answer.usage is not None
        assert answer.usage.model_dump(exclude_none=True) == USAGE

        async with ai.chat.completions.stream(
            model="scripted", messages=[user(*script)], stream_options={"include_usage": True}
        ) as stream:
            events = [event.type async for event in stream]
            whole = await stream.get_final_completion()
        assert {"chunk", "content.delta", "content.done"} <= set(events)
        assert whole.usage is not None
        assert whole.usage.total_tokens == 5
        assert "instructions" in (whole.choices[0].message.content or "")

        models = [model.id async for model in ai.models.list()]
        assert models == ["friday", "scripted", "small", "a/b"]
        assert (await ai.models.retrieve("friday")).object == "model"
        assert (await ai.models.retrieve("a/b")).id == "a/b"
        answer = await ai.chat.completions.create(model="a/b", messages=[user("Who are you?")])
        assert "Slash" in (answer.choices[0].message.content or "")
        with pytest.raises(openai.NotFoundError) as unknown:
            await ai.models.retrieve("nobody")
        assert unknown.value.code == "model_not_found"
    assert turn_rows(server) == {}  # nobody asked for it to be kept


async def test_the_sdk_without_asyncio(server: Agentd) -> None:
    await server.start(graphs=GRAPHS)

    def use() -> None:
        with OpenAI(base_url=f"{server.address}/v1", api_key="any", _strict_response_validation=True) as ai:
            answer = ai.chat.completions.create(model="any", messages=[user("Who are you?")])
            assert "Friday" in (answer.choices[0].message.content or "")
            found = list(ai.chat.completions.create(model="any", messages=[user("count to 3")], stream=True))
            assert text_of(found) == "1 2 3"
            assert next(iter(ai.models.list())).id == "friday"
            with pytest.raises(openai.BadRequestError) as refused:
                ai.chat.completions.create(model="any", messages=[])
            assert refused.value.param == "messages"

    with ThreadPoolExecutor(1) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, use)


async def test_sessions(server: Agentd) -> None:
    await server.start(graphs=GRAPHS)
    async with sdk(server) as ai:

        async def say(text: str, **whose: Any) -> str:
            answer = await ai.chat.completions.create(model="any", messages=[user(text)], extra_body=whose)
            return answer.choices[0].message.content or ""

        names = [f"Name{number}" for number in range(10)]
        await asyncio.gather(*(say(f"My name is {name}.", session_id=name, user_id="u") for name in names))
        found = await asyncio.gather(*(say("What is my name?", session_id=name, user_id="u") for name in names))
        assert found == [f"Your name is {name}." for name in names]
        assert "not" in await say("What is my name?", session_id=names[0], user_id="v")
        assert "not" in await say("What is my name?")
        assert len(turn_rows(server)) == 21

        # without a session each has a worker of its own, all at the same time
        assert await asyncio.gather(*(say(f"repeat {name}") for name in names * 2)) == names * 2
        assert len(turn_rows(server)) == 21
        await say("keep this", store=True)
        assert len(turn_rows(server)) == 22


async def test_calls_for_the_client_and_answers_that_are_cut(server: Agentd) -> None:
    async with OpenAIServer().running() as model, sdk_of(server, model) as ai:
        for stream in (False, True):
            model.will(calls(("lookup", '{"q":1}'), ("lookup", "{}"), said="One moment."))
            messages: list[Any] = [user("Look it up.")]
            asked: Any = {"model": "model", "messages": messages, "tools": [TOOL]}
            if stream:
                async with ai.chat.completions.stream(**asked) as answers:
                    answer: Any = await answers.get_final_completion()
            else:
                answer = await ai.chat.completions.create(**asked)
            [choice] = answer.choices
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", "One moment.")
            told = [(call.type, call.function.name, call.function.arguments) for call in choice.message.tool_calls]
            assert told == [("function", "lookup", '{"q":1}'), ("function", "lookup", "{}")]
            messages.append(choice.message.model_dump(exclude_none=True))
            messages += [
                {"role": "tool", "tool_call_id": call.id, "content": str(number)}
                for number, call in enumerate(choice.message.tool_calls)
            ]
            model.will(words("Found."))
            answer = await ai.chat.completions.create(model="model", messages=messages)
            assert (answer.choices[0].message.content, answer.usage.total_tokens) == ("Found.", 13)
            roles = [message["role"] for message in model.bodies[-1]["messages"]]
            assert roles == ["user", "assistant", "tool", "tool"]

        model.will(words("Too", " long", finish="length"))
        answer = await ai.chat.completions.create(model="model", messages=[user("hi")], max_completion_tokens=2)
        assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("length", "Too long")
        assert model.bodies[-1]["max_tokens"] == 2

        model.will(deltas({"reasoning_content": "hm"}, {"content": "a"}))
        found = await chunks(await ai.chat.completions.create(model="model", messages=[user("hi")], stream=True))
        thoughts = [chunk.choices[0].delta.model_extra or {} for chunk in found]
        assert [extra["reasoning_content"] for extra in thoughts if extra] == ["hm"]


@contextlib.asynccontextmanager
async def sdk_of(server: Agentd, model: OpenAIServer) -> AsyncIterator[AsyncOpenAI]:
    """The SDK of a server whose graph `model` asks that model."""
    await server.start(graphs=[*GRAPHS, graph("model", "openai_chatgpt", base_url=model.url)])
    async with sdk(server) as ai:
        yield ai


# ---------------------------------------------------------------------- what goes wrong


async def test_refusals(server: Agentd) -> None:
    await server.start(graphs=GRAPHS)
    async with sdk(server) as ai:
        for stream in (False, True):
            odd: Any = {"model": "any", "messages": [user("a"), user("b"), {"role": "user", "content": 5}]}
            with pytest.raises(openai.BadRequestError) as refused:
                await ai.chat.completions.create(**odd, stream=stream)
            error = refused.value
            assert (error.param, error.code, error.type) == (
                "messages[2].content",
                "invalid_type",
                "invalid_request_error",
            )
            assert error.request_id
            with pytest.raises(openai.BadRequestError) as refused:
                await ai.chat.completions.create(model="any", messages=[user("a")], n=2, stream=stream)
            assert (refused.value.param, refused.value.code) == ("n", "unsupported_parameter")
        with pytest.raises(openai.NotFoundError):
            await ai.post("/nothing", cast_to=object)
    for data in (b"", b"{", b"[]", b'{"messages":[{"role":"user","content":"\xff"}]}'):
        answer = await server.request("POST", PATH, data=data)
        assert (answer["status"], answer["error"].keys()) == (400, {"message", "type", "param", "code"})
    assert (await server.request("GET", PATH))["status"] == 405


async def test_every_stream_ends_once(server: Agentd) -> None:
    await server.start(graphs=GRAPHS, AGENTD_TURN_SILENCE_SECONDS="0.5")

    ways: dict[str, tuple[str, list[Any]]] = {
        "crashed": ("scripted", ["wait", None]),
        "agent_error": ("scripted", ["raise", "it broke"]),
        "turn_silent": ("scripted", ["block", 60]),
    }
    controllers = (await server.get("/health?details=1"))["data"]["controllers"]
    # Without a controller the address space is bounded, and what the agent gets is a MemoryError.
    memory = "out_of_memory" if "memory" in controllers else "agent_error"
    for cause, (model, step) in [(memory, ("small", ["hoard", 0])), *ways.items()]:
        found = []
        async for frame in frames(server, ["paced", [1, 0.05]], step, model=model):
            found.append(frame)
            if len(found) == 2 and cause == "crashed":
                os.kill(await pid_of(server, model), signal.SIGKILL)
        assert found[-1] == "[DONE]", cause
        assert found.count("[DONE]") == 1
        assert [*found[-2]] == ["error"]
        error = found[-2]["error"]
        assert (error["code"], error["type"], bool(error["message"])) == (cause, "server_error", True), error
        assert [frame["choices"][0]["delta"].get("content") for frame in found[:2]] == ["", "0 "]
        finished = [choice["finish_reason"] for frame in found[:-2] for choice in frame["choices"]]
        assert set(finished) == {None}, cause

    async with sdk(server, max_retries=2) as ai:
        with pytest.raises(openai.APIError, match="it broke") as failed:
            script = user(["say", "on"], ["raise", "it broke"])
            await chunks(await ai.chat.completions.create(model="scripted", messages=[script], stream=True))
        assert failed.value.code == "agent_error"
        with pytest.raises(openai.InternalServerError, match="it broke") as refused:
            await ai.chat.completions.create(model="scripted", messages=[user(["raise", "it broke"])])
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert refused.value.code == "agent_error"
    await server.stop()
    asked = [event for event in server.events if event.get("path") == PATH]
    assert len(asked) == len(ways) + 3  # the SDK has not tried again


async def test_a_client_that_goes_ends_its_turn(server: Agentd) -> None:
    await server.start(graphs=GRAPHS)
    body = {"model": "scripted", "session_id": "s", "messages": [user(["say", "on"], ["wait", None])]}
    async with client(server) as reader:
        await reader.ask(body, PATH)
        await reader.head()
        reader.vanish()
    row = await ended_turn(server, "client_gone")
    assert (row["source"], (await recorded(server, row["id"]))["session"]) == ("openai", "s")
    answer = await server.post(PATH, {**body, "messages": [user("free")]})
    assert answer["choices"][0]["message"]["content"] == "free"
