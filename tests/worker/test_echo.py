"""echo: what comes in goes out, exactly."""

from typing import Any

import pytest

from tests.harness.agents import Outside, ask, build, user
from worker.addons.echo import Echo
from worker.agent import Final, Kind, Message

IMAGE = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hello  there,\n world ", "Hello  there,\n world "),
        ("  ", "  "),
        ("Grüße 👩‍👧 会议室\u0000", "Grüße 👩‍👧 会议室\u0000"),
        ("x" * 100_000, "x" * 100_000),
        ([{"type": "text", "text": "a "}, IMAGE, {"type": "text", "text": "b"}], "a b"),
        ([IMAGE], '[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]'),
        ({"x": [1, None, "ü"]}, '{"x":[1,null,"ü"]}'),
    ],
)
async def test_a_chat_answers_the_last_message_of_the_user(content: Any, text: Any) -> None:
    messages = [user("earlier"), user(content), {"role": "assistant", "content": "later"}]
    answer = await ask(build(Echo), messages=messages)
    assert answer.text == text
    assert answer.events == answer.pieces
    assert answer.final is None


async def test_a_chat_streams_word_by_word() -> None:
    assert (await ask(build(Echo), "one two  three")).pieces == ["one ", "two  ", "three"]


@pytest.mark.parametrize("messages", [[user("")], [user(None)], [user([])], [{"role": "system", "content": "x"}]])
async def test_an_empty_message_has_an_answer_all_the_same(messages: Any) -> None:
    answer = await ask(build(Echo), messages=messages)
    assert answer.events == []
    assert answer.final == Final("")


@pytest.mark.parametrize("value", [None, "text", "", 5, 1.5, True, [], [1, [2]], {}, {"ü": {"x": None}}])
async def test_an_invoke_answers_its_input(value: Any) -> None:
    answer = await ask(build(Echo), kind="invoke", input=value)
    assert answer.events == []
    assert answer.final == Final(value)


def test_it_handles_both() -> None:
    assert Echo.handles() == ["chat", "invoke"]


async def test_it_gives_back_data_and_the_payload_of_its_command() -> None:
    outside = Outside()
    node = Echo(outside.context())
    data = Message(kind=Kind.DATA, name="any", properties={"x": 1}, body=b"y")
    text = Message(kind=Kind.DATA, name="text_data", properties={"text": "x"})
    for message in (data, Message(kind=Kind.CMD, name="flush"), Message(kind=Kind.AUDIO_FRAME, name="pcm_frame"), text):
        await node.on_message(message)
    assert outside.messages == [data, text]
    assert await node.context.handlers["echo"]({"x": 1}) == {"x": 1}
