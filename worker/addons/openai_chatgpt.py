"""`openai_chatgpt`, also `openai_chatgpt_python`: a chat model behind any server that speaks OpenAI's HTTP API."""

import asyncio
import typing
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from worker.addons import openai_rehearsal
from worker.addons.openai_answer import Answer
from worker.addons.openai_attachments import parts_of
from worker.addons.openai_client import ModelClient
from worker.addons.openai_errors import ToolRoundsError
from worker.addons.openai_messages import Chat, conversation
from worker.addons.openai_settings import OF_TOOLS, ChatProperties, parameters
from worker.addons.openai_tools import Toolbox
from worker.agent import Agent, Context, Final, ToolCall, Turn, Usage
from worker.conversation import text_data

WAITING: typing.Final = "openai_waiting"  # in the state: the calls that the client was handed, as messages
CUT: typing.Final = {"incomplete": "max_output_tokens"}  # the value of a turn whose answer is not all there would be

preload = openai_rehearsal.preload  # the entry point


class OpenAIChatGPT(Agent):
    """Asks a model and streams its answer. It starts without key or network; a subclass gives it `tools`.

    Calls of own tools run here and go back to the model, at most `max_tool_rounds` times. Calls of the client's tools
    end the turn: its value has them, and the next turn's messages answer them.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.properties = ChatProperties.parse(context.properties)
        self._client: ModelClient | None = None

    def describe(self) -> dict[str, Any]:
        """Its effective properties, without the key."""
        return self.properties.public()

    async def start(self) -> None:
        """Send the greeting to whom it may concern: it waits until all nodes have started."""
        if greeting := self.properties.greeting:
            await self.context.send(text_data(greeting, role="assistant", ended=True))

    async def chat(self, turn: Turn) -> Final | None:
        """Ask the model until it answers without a call. Raises ModelError; ValueError for what it cannot be shown."""
        properties = self.properties
        request, client_tools = parameters(properties, turn.options)
        request["stream_options"] = {"include_usage": True}
        toolbox = Toolbox(self.tools, client_tools)
        if toolbox.definitions:
            request["tools"] = toolbox.definitions
        else:
            request = {name: value for name, value in request.items() if name not in OF_TOOLS}
        messages = conversation(
            prompt=properties.prompt,
            instructions=turn.instructions,
            history=turn.history,
            messages=turn.messages,
            waiting=turn.state.get(WAITING, ()),
            parts=await asyncio.to_thread(parts_of, turn.attachments) if turn.attachments else (),
            most=properties.max_memory_length,
        )
        async with (await self._connected(properties)).lease() as client:
            for left in reversed(range(properties.max_tool_rounds + 1)):
                answer = await client.ask({**request, "messages": messages}, turn.emit)
                await self._account(turn, answer)
                answer.complete()
                handed = toolbox.handed(answer.calls)
                if not answer.calls:
                    turn.state.pop(WAITING, None)
                    return Final(CUT) if answer.cut else None
                if not handed and not left:
                    break
                said = [answer.as_message(), *await toolbox.use(turn, answer.calls, but=handed)]
                if handed:
                    return await self._hand_over(turn, handed, said)
                messages += said
                request.pop("tool_choice", None)  # else a model that must call a tool would do nothing else
        raise ToolRoundsError(
            f"the model wants tools once more after {properties.max_tool_rounds} rounds of them "
            "(the node's property max_tool_rounds)"
        )

    async def stop(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.retire()

    async def _connected(self, properties: ChatProperties) -> ModelClient:
        """The client for these properties; one for those before an update is given up."""
        before, client = self._client, self._client
        if client is None or client.properties is not properties:
            client = self._client = ModelClient(properties, self.context.node)
            if before is not None:
                await before.retire()
        return client

    async def _account(self, turn: Turn, answer: Answer) -> None:
        if answer.cut:
            self.context.log.info("openai.answer_cut", turn=turn.id, characters=len(answer.text))
        if counts := dict(answer.usage):
            names = ("input_tokens", "output_tokens", "total_tokens")
            known = {name: counts.pop(name) for name in names}
            await turn.emit(Usage(**known, model=answer.model or None, details=counts))

    async def _hand_over(self, turn: Turn, calls: Sequence[ToolCall], said: list[Chat]) -> Final:
        """End the turn with the client's calls, and keep what the model is reminded of when they are answered."""
        for call in calls:
            await turn.emit(call)
        turn.state[WAITING] = said
        return Final({"tool_calls": [asdict(call) for call in calls]})
