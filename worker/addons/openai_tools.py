"""The tools a model may call in one turn: the agent's own, which run here, and the client's, which it is handed."""

import asyncio
import contextlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson
from pydantic import BaseModel

from worker.addons.openai_answer import Call
from worker.addons.openai_messages import Chat, tool_message
from worker.addons.openai_settings import Definition, OptionError
from worker.agent import Tool, ToolCall, ToolError, ToolResult, Turn

MAX_OUTPUT: Final = 64 * 1024  # characters of one result that the model is shown


class ArgumentsError(ValueError):
    """A call's arguments are no JSON object."""


class Toolbox:
    """Own and client's tools by name. Raises OptionError when both have one of the same name."""

    def __init__(self, own: Iterable[Tool], client: Sequence[Definition]) -> None:
        self._own = {tool.name: tool for tool in own}
        self._client = {tool.function.name for tool in client}
        if both := sorted(self._own.keys() & self._client):
            raise OptionError(f"tools: the agent has tools of its own by these names: {', '.join(both)}")
        self.definitions: list[dict[str, Any]] = [
            *(_definition(tool) for tool in self._own.values()),
            *(tool.model_dump() for tool in client),
        ]

    def handed(self, calls: Iterable[Call]) -> list[ToolCall]:
        """Those of the calls that the client is to answer: of its tools, with arguments that are JSON."""
        found = []
        for call in calls:
            with contextlib.suppress(ArgumentsError):  # `use` tells the model
                if call.name in self._client:
                    found.append(ToolCall(call.id, call.name, arguments_of(call)))
        return found

    async def use(self, turn: Turn, calls: Iterable[Call], *, but: Sequence[ToolCall] = ()) -> list[Chat]:
        """Run the calls all at once, but the handed ones; their answers for the model, in the order of the calls.

        A call that fails, of a tool that is not there or with arguments that do not fit, is answered with the error:
        the model may do better next time.
        """
        elsewhere = {call.id for call in but}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._use(turn, call)) for call in calls if call.id not in elsewhere]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _use(self, turn: Turn, call: Call) -> Chat:
        try:
            arguments = arguments_of(call)
            tool = self._own[call.name]
        except ArgumentsError as error:
            return await self._refuse(turn, call, str(error))
        except KeyError:
            there = ", ".join([*self._own, *sorted(self._client)]) or "none"
            return await self._refuse(turn, call, f"there is no tool {call.name!r:.100}; there are: {there}")
        try:
            return tool_message(call.id, shown(await turn.use(tool, arguments, id=call.id)))
        except ToolError as error:
            return tool_message(call.id, shown(f"error: {error}"))

    async def _refuse(self, turn: Turn, call: Call, reason: str) -> Chat:
        await turn.emit(ToolCall(call.id, call.name, {}))
        await turn.emit(ToolResult(call.id, call.name, reason, failed=True))
        return tool_message(call.id, f"error: {reason}")


def arguments_of(call: Call) -> dict[str, Any]:
    """The arguments of a call; raises ArgumentsError."""
    try:
        arguments = orjson.loads(call.arguments)
    except orjson.JSONDecodeError as error:
        raise ArgumentsError(f"the arguments are no JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ArgumentsError(f"the arguments are an object, not {arguments!r:.100}")
    return arguments


def shown(output: Any) -> str:
    """A tool's result as the model is shown it: a string as it is, anything else as JSON; a long one is cut."""
    if isinstance(output, BaseModel):
        output = output.model_dump(mode="json")
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, default=str)
    return (
        text if len(text) <= MAX_OUTPUT else f"{text[:MAX_OUTPUT]}\n[cut here: {MAX_OUTPUT} of {len(text)} characters]"
    )


def _definition(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.schema}
    return {"type": "function", "function": function}
