"""The built-in add-ons, each with a real context."""

from typing import Any

import pytest

from tests.harness.agents import Outside, build
from worker.addons import BUILT_IN
from worker.addons.echo import Echo
from worker.addons.friday import Friday
from worker.addons.meeting_room import MeetingRoom
from worker.addons.openai_chatgpt import OpenAIChatGPT
from worker.agent import Kind, Message, PropertyError
from worker.registry import Registry

DEFAULTS = {
    "base_url": "https://api.openai.com/v1",
    "model": "gpt-4o",
    "prompt": "",
    "greeting": "",
    "max_tokens": 512,
    "temperature": 0.7,
    "top_p": None,
    "max_memory_length": 10,
}


@pytest.mark.parametrize(
    ("properties", "changed"),
    [
        ({}, {}),
        ({"model": "gpt-4o-mini"}, {"model": "gpt-4o-mini"}),
        ({"api_key": "sk-1", "proxy_url": "http://u:p@x", "frequency_penalty": 0.9}, {}),  # not shown
        ({"base_url": "", "api_key": "", "max_tokens": "", "top_p": None}, {}),  # placeholders without a value
        ({"max_tokens": "64", "temperature": "0"}, {"max_tokens": 64, "temperature": 0.0}),  # values of placeholders
        ({"base_url": "http://u:p@localhost:1234/v1?key=x#y"}, {"base_url": "http://localhost:1234/v1"}),
        ({"top_p": 1, "max_memory_length": 0}, {"top_p": 1.0, "max_memory_length": 0}),
    ],
)
def test_openai_chatgpt_shows_its_effective_properties_without_secrets(properties: Any, changed: Any) -> None:
    described = build(OpenAIChatGPT, properties).describe()
    assert described == described | DEFAULTS | changed
    assert "sk-1" not in str(described)
    assert "api_key" not in described


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({"max_tokens": "lots"}, "max_tokens: .*integer.*, not 'lots'"),
        ({"max_tokens": 0}, "max_tokens: .*greater than or equal to 1, not 0"),
        ({"temperature": 3}, "temperature: .*less than or equal to 2, not 3"),
        ({"top_p": 0}, "top_p: .*greater than 0, not 0"),
        ({"model": ["x"]}, "model: Input should be a valid string$"),
        ({"base_url": "localhost"}, "base_url: .*http or https URL with a host, not 'localhost'"),
        ({"model": 5, "max_tokens": -1}, "model: .*; max_tokens: "),
    ],
)
def test_openai_chatgpt_names_what_is_wrong(properties: Any, told: Any) -> None:
    with pytest.raises(PropertyError, match=told):
        build(OpenAIChatGPT, properties)


@pytest.mark.parametrize("key", [["topsecret"], {"k": "topsecret"}, 5.5])
def test_a_secret_of_the_wrong_type_is_not_told(key: Any) -> None:
    with pytest.raises(PropertyError) as caught:
        build(OpenAIChatGPT, {"api_key": key})
    assert str(caught.value).startswith("api_key: ")
    assert "topsecret" not in str(caught.value)
    assert "5.5" not in str(caught.value)


def answered(outside: Any) -> Any:
    return [(m.properties["text"], m.properties["end_of_segment"]) for m in outside.messages if m.name == "text_data"]


@pytest.mark.parametrize(
    ("addon", "question", "answer"),
    [
        (Friday, "Who are you?", "I am Friday, a demo agent that needs no model."),
        (MeetingRoom, "room A12 9:00 to 10:00", "Meeting room A12 is idle from 9:00 to 10:00."),
    ],
)
async def test_agents_answer_other_nodes(addon: Any, question: Any, answer: Any) -> None:
    outside = Outside()
    node = addon(outside.context())
    await node.start()
    await node.on_message(Message(kind=Kind.DATA, name="text_data", properties={"text": question, "is_final": True}))
    await node.on_message(Message(kind=Kind.DATA, name="text_data", properties={"text": "Who", "is_final": False}))
    await node.on_message(Message(kind=Kind.CMD, name="flush"))
    await node.stop()
    said = answered(outside)
    assert "".join(text for text, _ in said).endswith(answer)
    assert [ended for _, ended in said] == [False] * (len(said) - 1) + [True]


async def test_friday_remembers_a_name_between_nodes() -> None:
    outside = Outside()
    node = Friday(outside.context())
    for text in ("My name is Ada.", "What is my name?"):
        await node.on_message(Message(kind=Kind.DATA, name="text_data", properties={"text": text, "is_final": True}))
    assert "".join(text for text, _ in answered(outside)).endswith("Your name is Ada.")


def test_every_built_in_addon_can_be_loaded() -> None:
    loaded = Registry().load(BUILT_IN)
    assert loaded.classes.keys() == BUILT_IN.keys()
    assert not loaded.missing


def test_a_command_has_one_handler_per_node() -> None:
    node = build(Echo)
    with pytest.raises(ValueError, match="'n' handles the command 'echo' already"):
        node.context.handle("echo", node.echo)


async def test_a_report_is_a_state_frame_of_its_node() -> None:
    outside = Outside()
    await outside.context().report(progress=0.5, t="event", node="x")
    assert outside.frames == [{"progress": 0.5, "t": "state", "node": "n"}]
