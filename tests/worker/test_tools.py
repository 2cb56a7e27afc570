"""Tools: their schema, the check of their arguments, and how they are called."""

import asyncio
import threading
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from worker.agent import Agent, Context, Tool, ToolError, tool


class Room(BaseModel):
    number: int
    floor: int = 0


@tool
async def room_status(
    number: Annotated[int, Field(description="Which one.", ge=1, le=40)],
    day: Literal["today", "tomorrow"] = "today",
    rooms: list[Room] | None = None,
) -> str:
    """Whether a meeting room is free.

    Not on Sundays.
    """
    return f"{number} {day} {rooms}"


@tool(name="second", description="Another.", timeout=0.05)
async def first(schema: Any, json: str = "x", self_: int = 0) -> Any:
    """Not this."""
    return schema, json, self_


def test_a_tool_is_described_by_its_function() -> None:
    assert (room_status.name, room_status.description) == (
        "room_status",
        "Whether a meeting room is free.\n\nNot on Sundays.",
    )
    assert (first.name, first.description, first.timeout) == ("second", "Another.", 0.05)


def test_the_schema_of_the_parameters() -> None:
    schema = room_status.schema
    assert schema["type"] == "object"
    assert schema["required"] == ["number"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["number"] == {
        "description": "Which one.",
        "maximum": 40,
        "minimum": 1,
        "type": "integer",
    }
    assert schema["properties"]["day"] == {"default": "today", "enum": ["today", "tomorrow"], "type": "string"}
    assert "Room" in schema["$defs"]
    assert list(first.schema["properties"]) == ["schema", "json", "self_"]
    assert tool(lambda: None).schema == {"additionalProperties": False, "properties": {}, "type": "object"}


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ({"number": 4}, "4 today None"),
        ({"number": "4", "day": "tomorrow"}, "4 tomorrow None"),
        ({"number": 4, "rooms": [{"number": "1"}]}, "4 today [Room(number=1, floor=0)]"),
    ],
)
async def test_arguments_are_what_the_annotations_say(arguments: Any, result: Any) -> None:
    assert await room_status(arguments) == result


async def test_parameters_may_have_any_name() -> None:
    assert await first({"schema": 1, "self_": 2}) == (1, "x", 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "tool 'room_status': parameter 'number' is missing"),
        ({"number": 4, "nmber": 5}, "tool 'room_status': no parameter 'nmber'; there are number, day, rooms"),
        ({"number": "x"}, "parameter 'number': Input should be a valid integer, unable to parse string as an integer,"),
        ({"number": 0}, "parameter 'number': Input should be greater than or equal to 1, not 0"),
        ({"number": 1, "day": "never"}, "parameter 'day': Input should be 'today' or 'tomorrow', not 'never'"),
        ({"number": 1, "rooms": [{}]}, "parameter 'rooms.0.number' is missing"),
        ({"number": 0, "day": 5}, "; parameter 'day': "),
        ({"number": "x" * 1000}, "not 'xxx"),
        ([4], "tool 'room_status': arguments are an object, not [4]"),
        (None, "tool 'room_status': arguments are an object, not None"),
    ],
)
async def test_wrong_arguments_are_named(arguments: Any, told: Any) -> None:
    with pytest.raises(ToolError) as caught:
        await room_status(arguments)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda *rest: rest, "parameter 'rest' is a \\*list; a tool's arguments are given by name"),
        (lambda **rest: rest, "parameter 'rest' is a \\*\\*mapping"),
        (lambda x, /: x, "parameter 'x' is positional-only"),
    ],
)
def test_functions_that_cannot_be_tools(function: Any, told: Any) -> None:
    with pytest.raises(TypeError, match=told):
        tool(function)


def test_an_annotation_that_is_not_there() -> None:
    def function(x: "Nothing") -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    with pytest.raises(TypeError, match="tool 'function': an annotation cannot be resolved: name 'Nothing'"):
        tool(function)


async def test_sync_functions_run_in_a_thread() -> None:
    @tool
    def where() -> int:
        return threading.get_ident()

    assert await where({}) != threading.get_ident()


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration("no"), SystemExit("no"), KeyboardInterrupt("no")])
@pytest.mark.parametrize("threaded", [True, False])
async def test_what_a_function_raises(error: BaseException, threaded: bool) -> None:
    def fail() -> None:
        raise error

    async def fail_too() -> None:
        raise error

    with pytest.raises(ToolError) as caught:
        await tool(fail if threaded else fail_too)({})
    if threaded or not isinstance(error, StopIteration):  # which a coroutine cannot raise
        assert str(caught.value).endswith(f"{type(error).__name__}: no")
        assert caught.value.__cause__ is error


async def test_a_tool_error_is_left_as_it_is() -> None:
    @tool
    async def refuse() -> None:
        raise ToolError("not today")

    with pytest.raises(ToolError, match=r"^not today$"):
        await refuse({})


async def test_timeouts() -> None:
    @tool(timeout=0.01)
    async def hang() -> None:
        await asyncio.Event().wait()

    @tool(timeout=10)
    async def late() -> None:
        raise TimeoutError("of its own")

    free = threading.Event()

    @tool(timeout=0.01)
    def block() -> None:
        free.wait(20)

    for slow in (hang, block):
        with pytest.raises(ToolError, match=r"took longer than 0.01 s"):
            await slow({})
    free.set()
    with pytest.raises(ToolError, match="TimeoutError: of its own"):
        await late({})


async def test_a_cancel_passes_through() -> None:
    began = asyncio.Event()

    @tool
    async def hang() -> None:
        began.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(hang({}))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Base(Agent):
    @tool
    async def look(self, at: str) -> str:
        """Look at something."""
        return f"{self.context.node} looks at {at}"

    @tool
    def wait(self) -> str:
        return "base"


class Rooms(Base):
    tools = (room_status,)

    @tool
    def wait(self, seconds: int = 0) -> str:
        """Overridden."""
        return f"{self.context.node} {seconds}"


def agent(kind: type[Agent]) -> Agent:
    async def nowhere(*_: Any) -> Any:
        return 1

    return kind(Context(node="n", addon="a", channel="c", properties={}, route=nowhere, emit=nowhere))


async def test_an_agent_s_tools_are_those_it_names_and_its_methods() -> None:
    rooms = agent(Rooms)
    assert [each.name for each in rooms.tools] == ["room_status", "wait", "look"]
    assert list(rooms.tool("look").schema["properties"]) == ["at"]
    assert await rooms.tool("look")({"at": "x"}) == "n looks at x"
    assert await rooms.tool("wait")({"seconds": "5"}) == "n 5"
    assert isinstance(Rooms.wait, Tool)
    with pytest.raises(ToolError, match=r"^no tool 'x'; there are room_status, wait, look$"):
        rooms.tool("x")
    with pytest.raises(ToolError, match=r"no tool 'x'; there are none"):
        agent(Agent).tool("x")
    with pytest.raises(ToolError, match="no parameter 'self'"):
        await rooms.tool("look")({"self": 1, "at": "x"})


def test_a_schema_may_hold_dataclasses() -> None:
    @tool
    async def take(what: Thing) -> None:
        pass

    assert take.schema["$defs"]["Thing"]["properties"]["size"]["type"] == "integer"


@dataclass
class Thing:
    size: int
