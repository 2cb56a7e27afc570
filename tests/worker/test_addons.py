"""The built-in add-ons, each with a real context."""

from typing import Any

import pytest

from worker.addons.echo import Echo
from worker.addons.friday import Friday
from worker.addons.meeting_room import MeetingRoom
from worker.addons.message_collector import MAX_CHARACTERS, MAX_STREAMS, MessageCollector
from worker.addons.openai_chatgpt import OpenAIChatGPT
from worker.agent import Context, Kind, Message, PropertyError


class Outside:
    """Takes what a node lets out."""

    def __init__(self) -> None:
        self.messages, self.frames = [], []

    async def route(self, node: Any, message: Any) -> None:
        self.messages.append(message)

    async def emit(self, frame: Any) -> Any:
        self.frames.append(frame)
        return len(self.frames)

    def context(self, properties: Any = None) -> Any:
        return Context(node="n", addon="a", channel="c", properties=properties or {}, route=self.route, emit=self.emit)


def build(addon: Any, properties: Any = None) -> Any:
    return addon(Outside().context(properties))


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
    assert build(OpenAIChatGPT, properties).describe() == DEFAULTS | changed


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


@pytest.mark.parametrize(("addon", "name"), [(Friday, "Friday"), (MeetingRoom, "meeting-room")])
def test_agents_check_their_properties(addon: Any, name: Any) -> None:
    assert build(addon, {"anything": 1}).describe() == {"name": name, "greeting": ""}
    assert build(addon, {"name": "Max"}).describe()["name"] == "Max"
    with pytest.raises(PropertyError, match=r"name: .*at most 100"):
        build(addon, {"name": "x" * 101})


@pytest.mark.parametrize("addon", [Friday, MeetingRoom, OpenAIChatGPT])
async def test_agents_take_messages_and_send_nothing(addon: Any) -> None:
    outside = Outside()
    node = addon(outside.context())
    await node.start()
    await node.on_message(Message(kind=Kind.DATA, name="text_data", properties={"text": "hello"}))
    await node.stop()
    assert outside.messages == outside.frames == []


async def test_echo_gives_back_data_and_the_payload_of_its_command() -> None:
    outside = Outside()
    node = Echo(outside.context())
    data = Message(kind=Kind.DATA, name="any", properties={"x": 1}, body=b"y")
    for message in (data, Message(kind=Kind.CMD, name="flush"), Message(kind=Kind.AUDIO_FRAME, name="pcm_frame")):
        await node.on_message(message)
    assert outside.messages == [data]
    assert await node.context.handlers["echo"]({"x": 1}) == {"x": 1}


def piece(text: Any, stream: Any = 0, **others: Any) -> Any:
    return Message(kind=Kind.DATA, name="text_data", properties={"text": text, "stream_id": stream, **others})


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        ([piece("a"), piece("b")], ["a", "ab"]),
        ([piece("a", is_final=True), piece("b", is_final=False), piece("c", is_final=False)], ["a", "ab", "ac"]),
        ([piece("a"), piece("b", end_of_segment=True), piece("c")], ["a", "ab", "c"]),
        ([piece("a", 1), piece("b", 2), piece("c", 1)], ["a", "b", "ac"]),
        ([Message(kind=Kind.DATA, name="other"), Message(kind=Kind.CMD, name="text_data")], []),
    ],
)
async def test_message_collector_gathers(pieces: Any, texts: Any) -> None:
    outside = Outside()
    node = MessageCollector(outside.context())
    for message in pieces:
        await node.on_message(message)
    assert [message.properties["text"] for message in outside.messages] == texts
    assert {(message.kind, message.name) for message in outside.messages} <= {(Kind.DATA, "data")}


async def test_message_collector_is_bounded() -> None:
    outside = Outside()
    node = MessageCollector(outside.context())
    for stream in range(MAX_STREAMS + 1):
        await node.on_message(piece("x" * MAX_CHARACTERS, stream))
    await node.on_message(piece("y", 0))  # forgotten
    await node.on_message(piece("y", 5))
    assert outside.messages[-2].properties["text"] == "y"
    assert len(outside.messages[-1].properties["text"]) == MAX_CHARACTERS
    assert outside.messages[-1].properties["text"].endswith("xy")


@pytest.mark.parametrize("bad", [piece(5), piece("x", "y"), piece(None)])
async def test_message_collector_refuses_what_is_no_text(bad: Any) -> None:
    with pytest.raises(TypeError, match="text_data needs a string"):
        await build(MessageCollector).on_message(bad)


def test_a_command_has_one_handler_per_node() -> None:
    node = build(Echo)
    with pytest.raises(ValueError, match="'n' handles the command 'echo' already"):
        node.context.handle("echo", node.echo)


async def test_a_report_is_a_state_frame_of_its_node() -> None:
    outside = Outside()
    await outside.context().report(progress=0.5, t="event", node="x")
    assert outside.frames == [{"progress": 0.5, "t": "state", "node": "n"}]
