"""Agents that do what the question says; the tests of turns load them in a worker's process."""

import asyncio
import contextlib
import os
import time
from pathlib import Path

from pydantic import BaseModel

from worker.agent import (
    Agent,
    Final,
    Kind,
    Message,
    Node,
    Properties,
    PropertyError,
    Source,
    Structured,
    Text,
    Thought,
    ToolCall,
    ToolResult,
    Usage,
    tool,
)


class Sum(BaseModel):
    a: int
    b: int = 2


class Strange(BaseException):
    pass


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@tool
async def add(a: int, b: int = 2) -> int:
    """The sum."""
    return a + b


@tool(timeout=0.05)
async def slow():
    await asyncio.Event().wait()


@tool
async def forever():
    await asyncio.Event().wait()


@tool
def blocking(path: str):
    while not Path(path).exists():
        time.sleep(0.01)
    return "at last"


@tool
def broken(what: str = "key"):
    raise {"key": KeyError, "stop": StopIteration, "exit": SystemExit}[what]("x")


@tool
async def unfit():
    return {1, 2}


class Actor(Agent):
    """`chat` plays the method that the question names."""

    tools = (add, slow, forever, blocking, broken, unfit)

    def chat(self, turn):
        name, _, self.rest = turn.question.partition(" ")
        return getattr(self, name)(turn)

    async def invoke(self, turn):
        match turn.input:
            case {"raise": text}:
                raise ValueError(text)
            case {"return": value}:
                return value
            case {"model": a}:
                return Sum(a=a)
            case {"unfit": "set"}:
                return {1}
            case {"unfit": "int"}:
                return 1 << 64
            case {"unfit": "large"}:
                return "x" * (1 << 20)
            case {"unfit": "key"}:
                return {1: 2}

    async def say(self, turn):
        yield self.rest

    async def everything(self, turn):
        yield "word "
        yield Text("ü€😀")
        yield Thought("hm")
        yield ToolCall("c1", "f", {"x": [1]})
        yield ToolResult("c1", "f", {"y": None}, ms=1.5)
        yield ToolResult("c2", "f", "no", failed=True)
        yield Source("title", "text", "source")
        yield Source(title="t", text="x", source="s", filename="f.txt")
        yield Structured({"a": 1}, {"type": "object"})
        yield Structured(Sum(a=1))
        yield Usage(3, 4)
        yield Usage(input_tokens=1, output_tokens=2, total_tokens=9, model="m", details={"cached_tokens": 1})
        await turn.emit(Thought("again"))
        await turn.say("end")

    async def returns_text(self, turn):
        return "all of it"

    async def returns_value(self, turn):
        return {"a": None}

    async def returns_final(self, turn):
        return Final("f")

    async def returns_nothing(self, turn):
        pass

    async def returns_stream(self, turn):
        await asyncio.sleep(0)
        return self.say(turn)

    async def iterates(self, turn):
        class Two:
            left = 2

            def __aiter__(self):
                return self

            async def __anext__(self):
                self.left -= 1
                if self.left < 0:
                    raise StopAsyncIteration
                return str(self.left)

        return Two()

    async def ends_early(self, turn):
        try:
            yield "a"
            yield Final([1])
            yield "never"
        finally:
            turn.state["closed"] = True

    # failures

    async def value_error(self, turn):
        yield "before"
        raise ValueError("cannot \ud800 do it")

    async def exits(self, turn):
        raise SystemExit(5)

    async def interrupts(self, turn):
        yield "x"
        raise KeyboardInterrupt

    async def strange(self, turn):
        raise Strange("!")

    async def mute(self, turn):
        raise MuteError

    async def long_winded(self, turn):
        raise ValueError("x" * 5_000_000)

    async def cancels_itself(self, turn):
        raise asyncio.CancelledError

    async def stops_iterating(self, turn):
        raise StopIteration(3)

    async def dies(self, turn):
        yield "x"
        await asyncio.sleep(0)
        os._exit(7)

    async def yields_int(self, turn):
        yield "x"
        yield 5

    async def yields_class(self, turn):
        yield Text

    async def yields_bad_text(self, turn):
        yield Text(b"x")

    async def yields_bad_arguments(self, turn):
        yield ToolCall("c", "f", [1])

    async def yields_set(self, turn):
        yield Structured({1, 2})

    async def yields_surrogate(self, turn):
        yield Source("\ud800", "", "")

    async def yields_large_int(self, turn):
        yield Structured(1 << 64)

    async def yields_large(self, turn):
        yield Structured("x" * (1 << 20))

    async def returns_set(self, turn):
        return {1, 2}

    async def emits_final(self, turn):
        await turn.emit(Final(1))

    async def survives_a_bad_emit(self, turn):
        try:
            await turn.emit(5)
        except ValueError as error:
            yield f"{type(error).__name__}"

    async def goes_on_after_a_bad_yield(self, turn):
        while True:
            try:
                yield 5
            except ValueError:
                turn.state["seen"] = True

    async def ignores_its_end(self, turn):
        while True:
            with contextlib.suppress(GeneratorExit):
                yield Final(1)

    # texts and floods

    async def tiny(self, turn):
        for number in range(int(self.rest)):
            yield f"{number} "

    async def much(self, turn):
        yield "0123456789ü€😀\n"[: int(self.rest)] * 80_000

    async def controls(self, turn):
        yield "\0\x1f" * 400_000

    async def surrogates(self, turn):
        yield "a\ud83d\ude00b\ud800c\udc00"

    async def endless(self, turn):
        number = 0
        while True:
            yield f"{number} "
            number += 1

    async def endless_nothing(self, turn):
        try:
            while True:
                await turn.emit(Thought(""))
        except asyncio.CancelledError:
            turn.state["cancelled"] = True
            raise

    # waiting

    async def waits(self, turn):
        try:
            await asyncio.Event().wait()
        finally:
            turn.state["cleaned"] = turn.id
        yield "never"

    async def waits_between(self, turn):
        yield "first"
        await asyncio.Event().wait()

    async def sees_cancelled_at_yield(self, turn):
        try:
            while True:
                yield "x" * 1000
        except asyncio.CancelledError:
            turn.state["cleaned"] = True
            raise

    async def swallows(self, turn):
        try:
            yield "first"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        yield "never"

    async def swallows_and_returns(self, turn):
        await turn.say("first")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "fine"

    async def swallows_and_hangs(self, turn):
        yield "first"
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await self.context.report(swallowed=True)

    async def fails_when_cancelled(self, turn):
        yield "first"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("in the middle") from None

    async def blocks(self, turn):
        yield "a"
        while not Path(self.rest).exists():
            time.sleep(0.01)
        yield "b"

    async def sleeps(self, turn):
        yield "a"
        time.sleep(0.4)
        yield "b"

    async def leaves_a_task(self, turn):
        async def late():
            await asyncio.sleep(0)
            try:
                await turn.say("late")
            except RuntimeError as error:
                await self.context.report(late=str(error))

        self.task = asyncio.create_task(late())
        yield "x"

    # state

    async def keeps(self, turn):
        key, _, value = self.rest.partition("=")
        turn.state[key] = value
        yield ""

    async def tells(self, turn):
        yield Structured(turn.state)

    async def replaces(self, turn):
        turn.state = {"new": True}
        yield ""

    async def keeps_and_fails(self, turn):
        turn.state["kept"] = 1
        raise ValueError

    async def keeps_a_set(self, turn):
        turn.state["x"] = {1}
        yield "x"

    async def keeps_a_list(self, turn):
        turn.state = [1]
        yield "x"

    async def keeps_much(self, turn):
        turn.state["x"] = "y" * (256 * 1024)
        yield "x"

    async def keeps_a_set_and_fails(self, turn):
        turn.state["x"] = {1}
        raise ValueError("first")

    # tools

    async def uses(self, turn):
        name, _, argument = self.rest.partition(" ")
        arguments = {"add": {"a": argument, "b": 3}, "blocking": {"path": argument}, "broken": {"what": argument}}
        yield f"{await turn.use(self.tool(name), arguments.get(name, {}))}"

    async def calls(self, turn):
        yield f"{await turn.call(add, a=1)}, {await turn.call(self.mine, x='y')}, {await self.mine({'x': 'z'})}"

    @tool(name="my_own", description="Of the agent.")
    async def mine(self, x: str) -> str:
        return f"{self.context.node} {x}"

    async def calls_no_tool(self, turn):
        await turn.call(print)


class Settings(Properties):
    word: str = "hello"
    secret: str = ""


class Obedient(Agent):
    """Says the word of its properties."""

    def __init__(self, context):
        super().__init__(context)
        self.settings = Settings.parse(context.properties)

    def describe(self):
        return {"word": self.settings.word}

    async def chat(self, turn):
        yield self.settings.word
        if turn.question == "wait":
            await asyncio.Event().wait()


class Stubborn(Node):
    def update(self, properties):
        raise PropertyError("word: not now")


class Thick(Node):
    """Takes its time for each message; tells what it got."""

    async def start(self):
        self.context.handle("free", self.free)
        self.hold = asyncio.Event()
        if not self.context.properties.get("hold"):
            self.hold.set()

    async def free(self, payload):
        return None

    async def on_message(self, message):
        await self.context.signal(message.name, **message.properties)
        await self.hold.wait()


class Asker(Node):
    """Sends what a command gives it to whom it is connected."""

    def __init__(self, context):
        super().__init__(context)
        context.handle("send", self.send)

    async def send(self, payload):
        await self.context.send(Message(kind=Kind.DATA, name="text_data", properties=payload["properties"]))


class Shy(Node):
    """Cannot describe itself once it was told so; takes no property twice."""

    def describe(self):
        if self.context.properties.get("shy"):
            raise SystemExit("no words")
        return {}

    def update(self, properties):
        if not properties.get("shy") and self.context.properties.get("shy"):
            raise PropertyError("not back")
