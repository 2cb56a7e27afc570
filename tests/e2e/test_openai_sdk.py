"""OpenAI's Responses as the official SDK asks for them, sync and async, with a real server, agents and workers."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from pydantic import BaseModel

from tests.harness import Agentd
from tests.harness.openai_server import OpenAIServer, calls, words
from tests.harness.scripted import graph, install
from tests.harness.server import PATIENCE

PREFIX = "/compatible-mode/v1"
GRAPHS = [graph("friday", "friday", pace_ms=20), graph("scripted", "scripted"), graph("mute", "zoo_mute")]


@pytest.fixture
async def server(agentd: Agentd, tmp_path: Path) -> Agentd:
    install(agentd, tmp_path)
    return await agentd.start(graphs=GRAPHS)


@pytest.fixture
async def sdk(server: Agentd) -> AsyncIterator[AsyncOpenAI]:
    async with client(server) as sdk:
        yield sdk


def client(server: Agentd, prefix: str = PREFIX, **more: Any) -> AsyncOpenAI:
    more = {"api_key": "any", "max_retries": 0, "timeout": PATIENCE, **more}
    return AsyncOpenAI(base_url=server.address + prefix, _strict_response_validation=True, **more)


def script(*steps: list[Any]) -> str:
    return json.dumps(steps)


async def refused(kind: type[openai.APIStatusError], call: Any) -> Any:
    """The SDK's exception of this kind, which the call must raise."""
    with pytest.raises(kind) as raised:
        await call
    assert raised.value.request_id
    return raised.value


async def until_over(sdk: AsyncOpenAI, response_id: str) -> Any:
    async with asyncio.timeout(PATIENCE):
        while (response := await sdk.responses.retrieve(response_id)).status in ("queued", "in_progress"):
            await asyncio.sleep(0.05)
    return response


# ---------------------------------------------------------------------- the published lines


async def test_the_published_lines_with_the_sync_client(server: Agentd) -> None:
    def published(prefix: str) -> None:
        with OpenAI(base_url=server.address + prefix, api_key="any", max_retries=0, timeout=PATIENCE) as client:
            resp = client.responses.create(model="any_name", input="Who are you?")
            told = resp.response["output"][0]["content"][0]["text"]
            assert told == resp.output_text
            assert "Friday" in told
            assert (resp.model, resp.status) == ("any_name", "completed")
            found = list(client.responses.create(model="any_name", input="Who are you?", stream=True))
            assert found[0].type == "response.created"
            assert found[-1].response.output_text == told
            with client.responses.stream(model="any_name", input="Who are you?") as stream:
                said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
                assert said == stream.get_final_response().output_text == told
            with pytest.raises(openai.BadRequestError):
                client.responses.create(model="any_name", input=[])

    for prefix in (PREFIX, "/v1"):
        await asyncio.to_thread(published, prefix)


async def test_streams(server: Agentd, sdk: AsyncOpenAI) -> None:
    steps = script(["think", "hm"], ["say", "One "], ["call", {"a": 2, "b": 3}], ["usage", [3, 4]])
    found = [event async for event in await sdk.responses.create(model="scripted", input=steps, stream=True)]
    assert [event.sequence_number for event in found] == list(range(len(found)))
    final = found[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "message"]
    assert (final.output_text, final.usage.total_tokens, final.status) == ("One 5", 7, "completed")
    assert final.output[2].arguments == '{"a":2,"b":3}'
    async with sdk.responses.stream(model="scripted", input=steps) as stream:
        kinds = {event.type async for event in stream}
        accumulated = await stream.get_final_response()
    assert accumulated.output_text == "One 5"
    assert kinds >= {"response.reasoning_text.delta", "response.function_call_arguments.delta"}
    whole = await sdk.responses.create(model="scripted", input=steps)
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call", "message"]
    assert [item["type"] for item in whole.response["output"]][:2] == ["message", "reasoning"]


# ---------------------------------------------------------------------- conversations


async def test_conversations(server: Agentd, sdk: AsyncOpenAI) -> None:
    first = await sdk.responses.create(model="x", input="My name is Alice.")
    second = await sdk.responses.create(model="x", input="What is my name?", previous_response_id=first.id)
    assert "Alice" in second.output_text
    assert second.previous_response_id == first.id
    third = await sdk.responses.create(model="x", input="What is my name?", previous_response_id=second.id)
    assert "Alice" in third.output_text
    assert "Alice" not in (await sdk.responses.create(model="x", input="What is my name?")).output_text

    named = await sdk.responses.create(model="x", input="My name is Bob.", conversation="c1")
    assert named.conversation is not None
    assert named.conversation.id == "c1"
    for conversation in ("c1", {"id": "c1"}):
        again = await sdk.responses.create(model="x", input="What is my name?", conversation=conversation)
        assert "Bob" in again.output_text
    other = await sdk.responses.create(model="x", input="What is my name?", conversation="c1", user="eve")
    assert "Bob" not in other.output_text

    history = [
        {"role": "user", "content": "My name is Carol."},
        {"role": "assistant", "content": "Hello, Carol."},
        {"role": "user", "content": "What is my name?"},
    ]
    assert "Carol" in (await sdk.responses.create(model="x", input=history)).output_text

    unstored = await sdk.responses.create(model="x", input="hi", store=False)
    unknown = await refused(
        openai.BadRequestError, sdk.responses.create(model="x", input="hi", previous_response_id=unstored.id)
    )
    assert (unknown.code, unknown.param) == ("previous_response_not_found", "previous_response_id")
    await refused(openai.NotFoundError, sdk.responses.retrieve(unstored.id))
    both = await refused(
        openai.BadRequestError,
        sdk.responses.create(model="x", input="hi", previous_response_id=first.id, conversation="c1"),
    )
    assert both.param == "conversation"
    moved = await refused(
        openai.BadRequestError,
        sdk.responses.create(model="scripted", input="hi", previous_response_id=first.id),
    )
    assert moved.param == "model"


async def process(server: Agentd, question: str, **more: Any) -> str:
    """All that AgentScope's endpoint says to a question."""
    asked = {"role": "user", "content": [{"type": "text", "text": question}]}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
        session.post(f"{server.address}/process", json={"input": [asked], **more}) as response,
    ):
        return await response.text()


async def test_sessions_are_those_of_process(server: Agentd, sdk: AsyncOpenAI) -> None:
    extra = {"session_id": "s-1", "user_id": "u-1"}
    await sdk.responses.create(model="x", input="My name is Dora.", extra_body=extra)
    assert "Dora" in await process(server, "What is my name?", **extra)
    await process(server, "My name is Emil.", **extra)
    assert "Emil" in (await sdk.responses.create(model="x", input="What is my name?", extra_body=extra)).output_text


# ---------------------------------------------------------------------- what is asked, and echoed


async def test_what_agents_are_given(server: Agentd, sdk: AsyncOpenAI) -> None:
    asked = await sdk.responses.create(
        model="scripted",
        input=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": script(["request", 0])}],
        instructions="Be kind.",
        metadata={"a": "b"},
        temperature=0.5,
        max_output_tokens=99,
        reasoning={"effort": "low"},
        tool_choice="auto",
        tools=[{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}],
        extra_body={"session_id": "s", "user_id": "u"},
    )
    seen = json.loads(asked.output_text)
    assert (seen["instructions"], seen["session"], seen["user"]) == ("Be kind.\n\nBe brief.", "s", "u")
    assert seen["options"] == {
        "temperature": 0.5,
        "max_output_tokens": 99,
        "reasoning_effort": "low",
        "tool_choice": "auto",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": False}}],
    }
    assert (asked.instructions, asked.metadata, asked.temperature) == ("Be kind.", {"a": "b"}, 0.5)
    assert (asked.tools[0].type, asked.max_output_tokens) == ("function", 99)

    listed = await sdk.responses.input_items.list(asked.id)
    assert [item.role for item in listed.data] == ["developer", "user"]
    assert listed.data[0].content[0].text == "Be brief."

    said = [{"role": "user", "content": f"{number}"} for number in range(25)]
    many = await sdk.responses.create(model="scripted", input=said)
    for order, expected in (("asc", list(range(25))), ("desc", list(reversed(range(25))))):
        pages = sdk.responses.input_items.list(many.id, order=order, limit=10)
        assert [int(item.content[0].text) async for item in pages] == expected
    odd = await refused(openai.BadRequestError, sdk.responses.input_items.list(many.id, after="none"))
    assert odd.param == "after"

    raw = await sdk.responses.with_raw_response.create(model="scripted", input="hi")
    assert raw.headers["x-request-id"]
    assert raw.parse().output_text == "hi"


class Room(BaseModel):
    number: int
    free: bool


async def test_structured_outputs(server: Agentd, sdk: AsyncOpenAI) -> None:
    steps = script(["pieces", ['{"number":', ' 4, "free": true}']])
    parsed = await sdk.responses.parse(model="scripted", input=steps, text_format=Room)
    assert parsed.output_parsed == Room(number=4, free=True)
    async with sdk.responses.stream(model="scripted", input=steps, text_format=Room) as stream:
        assert (await stream.get_final_response()).output_parsed == Room(number=4, free=True)


# ---------------------------------------------------------------------- kept responses


async def test_kept_responses(server: Agentd, sdk: AsyncOpenAI) -> None:
    created = await sdk.responses.create(model="x", input="Who are you?", metadata={"a": "b"})
    kept = await sdk.responses.retrieve(created.id)
    assert kept == created
    assert kept.response["output"][0]["content"][0]["text"] == created.output_text
    finished = await refused(openai.BadRequestError, sdk.responses.cancel(created.id))
    assert finished.type == "invalid_request_error"
    await refused(openai.BadRequestError, sdk.responses.retrieve(created.id, stream=True))

    await sdk.responses.delete(created.id)
    for call in (
        sdk.responses.delete(created.id),
        sdk.responses.retrieve(created.id),
        sdk.responses.cancel(created.id),
        sdk.responses.input_items.list(created.id),
        sdk.responses.delete("resp_unknown"),
    ):
        assert (await refused(openai.NotFoundError, call)).type == "invalid_request_error"
    await refused(openai.BadRequestError, sdk.responses.create(model="x", input="hi", previous_response_id=created.id))


async def test_a_stream_is_kept_too_and_can_be_cancelled(server: Agentd, sdk: AsyncOpenAI) -> None:
    stream = await sdk.responses.create(model="scripted", input=script(["say", "One"], ["wait", 0]), stream=True)
    found = [await anext(stream)]
    response_id = found[0].response.id
    while found[-1].type != "response.output_text.delta":
        found.append(await anext(stream))
    running = await sdk.responses.retrieve(response_id)
    assert (running.status, running.output_text) == ("in_progress", "One")
    cancelled, rest = await asyncio.gather(sdk.responses.cancel(response_id), all_of(stream))
    assert (cancelled.status, cancelled.output_text, cancelled.error) == ("cancelled", "One", None)
    assert (rest[-1].type, rest[-1].response.error.message) == ("response.failed", "cancelled")
    assert (await sdk.responses.retrieve(response_id)).status == "cancelled"
    await refused(openai.BadRequestError, sdk.responses.cancel(response_id))


async def all_of(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def test_in_the_background(server: Agentd, sdk: AsyncOpenAI) -> None:
    steps = script(["paced", [20, 0.02]])
    begun = await sdk.responses.create(model="scripted", input=steps, background=True)
    assert begun.status in ("queued", "in_progress")
    assert begun.background is True
    done = await until_over(sdk, begun.id)
    assert (done.status, done.output_text) == ("completed", "".join(f"{n} " for n in range(20)))

    following = await sdk.responses.create(model="scripted", input=steps, background=True, stream=True)
    first = []
    async for event in following:
        first.append(event)
        if len(first) == 6:
            break
    await following.close()
    response_id = first[0].response.id
    rest = await all_of(await sdk.responses.retrieve(response_id, stream=True, starting_after=5))
    numbers = [event.sequence_number for event in (*first, *rest)]
    assert numbers == list(range(len(numbers)))
    assert rest[-1].response.output_text == done.output_text
    async with sdk.responses.stream(response_id=response_id, starting_after=8) as resumed:
        events = [event async for event in resumed]
        assert events[0].sequence_number == 9
        assert (await resumed.get_final_response()).output_text == done.output_text

    endless = await sdk.responses.create(model="scripted", input=script(["wait", 0]), background=True)
    assert (await sdk.responses.cancel(endless.id)).status == "cancelled"
    assert (await until_over(sdk, endless.id)).status == "cancelled"
    stored = await refused(
        openai.BadRequestError, sdk.responses.create(model="x", input="hi", background=True, store=False)
    )
    assert stored.param == "background"


# ---------------------------------------------------------------------- failures


async def test_failures(server: Agentd, sdk: AsyncOpenAI) -> None:
    steps = script(["say", "One"], ["raise", "no such room"])
    failed = await sdk.responses.create(model="scripted", input=steps)
    assert (failed.status, failed.output_text) == ("failed", "One")
    assert failed.error is not None
    assert failed.error.code == "server_error"
    assert "no such room" in failed.error.message
    assert "Traceback" not in failed.error.message
    assert (await sdk.responses.retrieve(failed.id)).status == "failed"
    found = await all_of(await sdk.responses.create(model="scripted", input=steps, stream=True))
    assert found[-1].type == "response.failed"
    async with sdk.responses.stream(model="scripted", input=steps) as stream:
        with pytest.raises(RuntimeError, match=r"response\.completed"):
            await stream.get_final_response()
    killed = await all_of(
        await sdk.responses.create(model="scripted", input=script(["say", "One"], ["die", "kill"]), stream=True)
    )
    assert [event.type for event in killed if event.type.startswith("response.") and "." not in event.type[9:]] == [
        *("response.created", "response.in_progress", "response.failed")
    ]
    mute = await refused(openai.BadRequestError, sdk.responses.create(model="mute", input="hi", stream=True))
    assert mute.code == "not_implemented"


async def test_refusals(server: Agentd, sdk: AsyncOpenAI) -> None:
    for stream in ({}, {"stream": True}):
        wrong = await refused(
            openai.BadRequestError, sdk.responses.create(model="x", input=[{"role": "boss", "content": "a"}], **stream)
        )
        assert (wrong.param, wrong.code, wrong.type) == ("input[0].role", "invalid_value", "invalid_request_error")
        wrong = await refused(openai.BadRequestError, sdk.responses.create(model="x", **stream))
        assert (wrong.param, wrong.code) == ("input", "missing_required_parameter")
    assert (await refused(openai.NotFoundError, sdk.files.list())).type == "invalid_request_error"


async def test_limits_and_keys(agentd: Agentd, tmp_path: Path) -> None:
    install(agentd, tmp_path)
    await agentd.start(graphs=GRAPHS, WORKERS_MAX="1", AGENTD_TOKEN="secret-of-this-test")
    async with client(agentd, api_key="wrong") as stranger, client(agentd, api_key="secret-of-this-test") as sdk:
        await refused(openai.AuthenticationError, stranger.responses.create(model="x", input="hi"))
        stream = await sdk.responses.create(model="scripted", input=script(["say", "a"], ["wait", 0]), stream=True)
        while (await anext(stream)).type != "response.output_text.delta":
            pass
        full = await refused(openai.RateLimitError, sdk.responses.create(model="scripted", input="hi"))
        assert int(full.response.headers["retry-after"]) > 0
        assert full.type == "rate_limit_exceeded"
        full = await refused(openai.RateLimitError, sdk.responses.create(model="scripted", input="hi", stream=True))
        await stream.close()


# ---------------------------------------------------------------------- function calls


class Lookup(BaseModel):
    """Look up a word."""

    word: str


async def test_function_calls_in_both_directions(agentd: Agentd) -> None:
    async with OpenAIServer().running() as model:
        await agentd.start(graphs=[graph("model", "openai_chatgpt", base_url=model.url, api_key="k", model="m")])
        async with client(agentd) as sdk:
            await call_and_answer(sdk, model)


async def call_and_answer(sdk: AsyncOpenAI, model: OpenAIServer) -> None:
    tools: Any = [
        {
            "type": "function",
            "name": "lookup",
            "description": "Look up a word.",
            "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
            "strict": False,
        }
    ]
    model.will(calls(("lookup", '{"word": "sun"}'), said="Wait."), words("A star."))
    asked: list[Any] = [{"role": "user", "content": "What is the sun?"}]
    first = await sdk.responses.create(model="x", input=asked, tools=tools, tool_choice="required")
    assert [item.type for item in first.output] == ["message", "function_call"]
    call = first.output[1]
    assert (call.name, json.loads(call.arguments)) == ("lookup", {"word": "sun"})
    assert model.bodies[0]["tools"][0]["function"]["name"] == "lookup"
    assert model.bodies[0]["tool_choice"] == "required"
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "a star"}

    second = await sdk.responses.create(model="x", input=[output], tools=tools, previous_response_id=first.id)
    assert second.output_text == "A star."
    assert second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens == 2
    conversation = model.bodies[1]["messages"]
    assert [message["role"] for message in conversation] == ["user", "assistant", "tool"]
    assert conversation[2]["tool_call_id"] == call.call_id

    # the same without anything that is kept here: the client sends all of it
    model.will(words("A star."))
    everything = [*asked, *(item.model_dump() for item in first.output), output]
    stateless = await sdk.responses.create(model="x", input=everything, tools=tools, store=False)
    assert stateless.output_text == "A star."
    messages = model.bodies[2]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["function"]["name"] == "lookup"

    # as a stream, with arguments that the SDK reads
    model.will(calls(("Lookup", '{"word": "sun"}')))
    tool = pydantic_function_tool(Lookup)["function"]
    async with sdk.responses.stream(
        model="x", input="What is the sun?", tools=[{"type": "function", "strict": True, **tool}]
    ) as stream:
        final = await stream.get_final_response()
    assert final.output[0].type == "function_call"
    assert json.loads(final.output[0].arguments) == {"word": "sun"}
