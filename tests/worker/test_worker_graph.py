"""A graph at work: real nodes, real queues; only the frames are caught instead of written."""

import asyncio
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from worker import graph as graph_module
from worker.agent import Kind, Message, Node
from worker.graph import QUEUE_LENGTH, CommandError, Graph, NodeBusyError
from worker.plan import StartError, make_plan
from worker.registry import GROUP, Registry


class Taker(Node):
    """Keeps what it gets; raises at the message `fail`, waits at the message `wait` until it is let go."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.got, self.came, self.go = [], asyncio.Event(), asyncio.Event()
        self.life = []
        if context.properties.get("refuse"):
            raise ValueError("will not")
        context.handle("ask", self.ask)
        context.handle("fail", self.fail)

    async def start(self) -> None:
        if self.context.properties.get("start") == "raise":
            raise OSError("no such thing")
        if self.context.properties.get("start") == "hang":
            await asyncio.Event().wait()
        self.life.append("start")

    async def on_message(self, message: Any) -> None:
        if message.name == "fail":
            raise RuntimeError("cannot take it \ud800")
        if message.name == "wait":
            self.came.set()
            await self.go.wait()
        self.got.append(message)
        self.came.set()

    async def ask(self, payload: Any) -> Any:
        return {"node": self.context.node, "x": payload.get("x")}

    async def fail(self, payload: Any) -> None:
        raise KeyError(payload["x"])

    async def stop(self) -> None:
        self.life.append("stop")
        if self.context.properties.get("stop") == "raise":
            raise OSError("will not go")
        if self.context.properties.get("stop") == "hang":
            await asyncio.Event().wait()

    async def took(self) -> None:
        async with asyncio.timeout(20):
            await self.came.wait()
        self.came.clear()


EXTRA = [EntryPoint("taker", f"{__name__}:Taker", GROUP)]


def node(name: Any, addon: Any = "taker", **properties: Any) -> Any:
    return {"type": "extension", "name": name, "addon": addon, "property": properties}


class Bench:
    """A graph and the frames it emitted."""

    def __init__(self, *nodes: Any, connections: Any = (), **options: Any) -> None:
        self.frames, self.emitted = [], asyncio.Event()
        entry = {"name": "g", "nodes": list(nodes), "connections": list(connections)}
        plan = make_plan({"ten": {"predefined_graphs": [entry]}}, "g")
        self.graph = Graph(plan, Registry(EXTRA), channel="c", emit=self.emit, **options)

    async def emit(self, frame: Any) -> Any:
        self.frames.append(frame)
        self.emitted.set()
        return len(self.frames)

    def __getitem__(self, name: Any) -> Any:
        return self.graph._members[name].node

    async def __aenter__(self) -> Any:
        await self.graph.start(20)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.graph.stop(5)


def to(*names: Any, source: Any = "a", name: Any = "x", kind: Any = "data") -> Any:
    return {"extension": source, kind: [{"name": name, "dest": [{"extension": dest} for dest in names]}]}


def message(name: Any = "x", kind: Any = Kind.DATA, **properties: Any) -> Any:
    return Message(kind=kind, name=name, properties=properties)


async def test_messages_follow_connections() -> None:
    async with Bench(node("a"), node("b"), node("c"), connections=[to("b", "c")]) as bench:
        await bench["a"].context.send(message(n=1))
        await bench["b"].took()
        await bench["c"].took()
        assert bench["b"].got == bench["c"].got == [message(n=1)]
        assert bench["b"].got[0] is bench["c"].got[0]
        for elsewhere in (message("y"), message("x", Kind.CMD)):
            await bench["a"].context.send(elsewhere)
        await bench["b"].context.send(message())  # nothing starts there
        assert bench["a"].got == []


async def test_echo_and_collector_together() -> None:
    connections = [to("e", name="text_data"), to("m", source="e", name="text_data"), to("a", source="m", name="data")]
    async with Bench(node("a"), node("e", "echo"), node("m", "message_collector"), connections=connections) as bench:
        for text in ("Hello, ", "world"):
            await bench["a"].context.send(message("text_data", text=text))
            await bench["a"].took()
        assert [m.properties["text"] for m in bench["a"].got] == ["Hello, ", "Hello, world"]


async def test_messages_sent_during_the_start_wait_until_all_have_started() -> None:
    bench = Bench(node("a"), node("b"), connections=[to("b")])
    await bench["a"].context.send(message())
    assert bench["b"].got == []
    async with bench:
        await bench["b"].took()
        assert bench["b"].life == ["start"]


async def test_a_node_that_raises_is_reported_and_goes_on_like_the_others() -> None:
    async with Bench(node("a"), node("b"), connections=[to("b", name="fail"), to("b")]) as bench:
        await bench["a"].context.send(message("fail"))
        await bench["a"].context.send(message())
        await bench["b"].took()
        assert bench.frames == [{"t": "state", "node": "b", "error": "RuntimeError: cannot take it ?"}]


async def test_a_full_queue_makes_the_sender_wait() -> None:
    async with Bench(node("a"), node("b"), connections=[to("b"), to("b", name="wait")]) as bench:
        await bench["a"].context.send(message("wait"))
        await bench["b"].took()
        for number in range(QUEUE_LENGTH):
            await bench["a"].context.send(message(n=number))
        late = asyncio.create_task(bench["a"].context.send(message(n=QUEUE_LENGTH)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not late.done()
        bench["b"].go.set()
        async with asyncio.timeout(20):
            await late
            while len(bench["b"].got) < QUEUE_LENGTH + 2:
                await bench["b"].took()
        assert [m.properties.get("n") for m in bench["b"].got] == [None, *range(QUEUE_LENGTH + 1)]


async def test_a_queue_that_stays_full_is_told_to_the_sender_and_others_get_the_message(monkeypatch: Any) -> None:
    monkeypatch.setattr(graph_module, "QUEUE_SECONDS", 0.05)
    connections = [to("b", "c"), to("b", name="wait")]
    async with Bench(node("a"), node("b"), node("c"), connections=connections) as bench:
        await bench["a"].context.send(message("wait"))
        await bench["b"].took()
        for number in range(QUEUE_LENGTH):
            await bench["a"].context.send(message(n=number))
            await bench["c"].took()
        with pytest.raises(NodeBusyError, match=r"no place for 'x' within 0.05 s at: b"):
            await bench["a"].context.send(message(n=QUEUE_LENGTH))
        await bench["c"].took()
        assert bench["c"].got[-1] == message(n=QUEUE_LENGTH)


def command(name: Any, **payload: Any) -> Any:
    return {"ten": {"name": name, "type": "cmd"}, **payload}


async def test_the_first_node_that_handles_a_command_answers() -> None:
    async with Bench(node("m", "message_collector"), node("a"), node("b"), node("e", "echo")) as bench:
        assert await bench.graph.command(command("ask", x=5)) == {"node": "a", "x": 5}
        assert await bench.graph.command(command("echo", x=5)) == command("echo", x=5)


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (command("file_chunk"), "^no node handles the command 'file_chunk'$"),
        (command("fail", x="y"), "^KeyError: 'y'$"),
        ({}, "names it at ten.name, by a string"),
        (None, "names it at ten.name, by a string"),
        ({"ten": 5}, "names it at ten.name, by a string"),
        (command(""), "names it at ten.name, by a string"),
        (command(7), "names it at ten.name, by a string"),
    ],
)
async def test_commands_without_a_result(payload: Any, told: Any) -> None:
    async with Bench(node("a")) as bench:
        with pytest.raises(CommandError, match=told):
            await bench.graph.command(payload)


async def test_a_handler_that_raises_is_reported_too() -> None:
    async with Bench(node("a")) as bench:
        with pytest.raises(CommandError):
            await bench.graph.command(command("fail", x="y"))
        async with asyncio.timeout(20):
            await bench.emitted.wait()
        assert bench.frames == [{"t": "state", "node": "a", "error": "KeyError: 'y'"}]


async def test_a_command_to_a_busy_node_ends_in_time_and_is_not_done_later(monkeypatch: Any) -> None:
    monkeypatch.setattr(graph_module, "COMMAND_SECONDS", 0.05)
    async with Bench(node("s"), node("a"), connections=[to("a", source="s", name="wait")]) as bench:
        del bench["s"].context.handlers["ask"], bench["s"].context.handlers["fail"]
        await bench["s"].context.send(message("wait"))
        await bench["a"].took()
        with pytest.raises(CommandError, match=r"node 'a' did not answer the command 'fail' within 0.05 s"):
            await bench.graph.command(command("fail", x="y"))
        bench["a"].go.set()
        await bench["a"].took()
        assert (await bench.graph.command(command("ask")))["node"] == "a"
        assert bench.frames == []


async def test_missing_addons_fail_or_are_inert() -> None:
    nodes = (node("a"), node("z", "zebra"), node("y", "ant"))
    with pytest.raises(StartError) as caught:
        Bench(*nodes)
    assert caught.value.missing == ("ant", "zebra")
    async with Bench(*nodes, connections=[to("z", "y")], skip_unknown=True) as bench:
        assert bench.graph.nodes == [{"name": "a", "addon": "taker"}]
        assert bench.graph.skipped == [{"name": "z", "addon": "zebra"}, {"name": "y", "addon": "ant"}]
        await bench["a"].context.send(message())


async def test_subgraphs_fail_or_are_inert() -> None:
    sub = {"type": "subgraph", "name": "sub", "graph": {"import_uri": "x.json"}}
    with pytest.raises(StartError, match="subgraph cannot be run: sub"):
        Bench(node("a"), sub)
    assert Bench(node("a"), sub, skip_unknown=True).graph.skipped == [{"name": "sub"}]


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({"start": "raise"}, r"node 'b' \(add-on 'taker'\): OSError: no such thing"),
        ({"refuse": True}, r"node 'b' \(add-on 'taker'\): ValueError: will not"),
    ],
)
async def test_a_node_that_cannot_start_fails_the_graph(properties: Any, told: Any) -> None:
    with pytest.raises(StartError, match=told) as caught:
        async with Bench(node("a"), node("b", **properties), node("c", start="hang")):
            pass
    assert caught.value.cause == "graph_invalid"


async def test_nodes_that_do_not_start_in_time_are_named() -> None:
    bench = Bench(node("a"), node("b", start="hang"), node("c", start="hang"))
    with pytest.raises(StartError, match=r"did not start within 0.05 s: b, c") as caught:
        await bench.graph.start(0.05)
    assert caught.value.cause == "start_timeout"
    await bench.graph.stop(5)
    assert bench["a"].life == ["start", "stop"]
    assert bench["b"].life == []


async def test_more_nodes_than_start_at_once_all_start() -> None:
    async with Bench(*(node(f"n{i}") for i in range(50))) as bench:
        assert all(bench[f"n{i}"].life == ["start"] for i in range(50))


async def test_stop_is_bounded_and_one_node_does_not_keep_the_others() -> None:
    bench = Bench(node("a", stop="hang"), node("b", stop="raise"), node("c"))
    await bench.graph.start(20)
    await bench.graph.stop(0.05)
    assert all(bench[name].life == ["start", "stop"] for name in "abc")
    for _ in range(5):  # the late one is cancelled
        await asyncio.sleep(0)


async def test_an_empty_graph_lives() -> None:
    async with Bench() as bench:
        assert bench.graph.nodes == bench.graph.skipped == bench.graph.descriptions() == []


async def test_descriptions_are_state_frames_of_those_that_describe_themselves() -> None:
    bench = Bench(node("a"), node("chat", "openai_chatgpt", model="gpt-4o", api_key="sk-1"))
    (frame,) = bench.graph.descriptions()
    assert (frame["t"], frame["node"], frame["properties"]["model"]) == ("state", "chat", "gpt-4o")
    assert "sk-1" not in str(frame)
