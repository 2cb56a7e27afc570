"""What agents hear from other nodes and tell them: `text_data` messages in real graphs."""

import asyncio
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from tests.harness.living import node
from worker import graph as graph_module
from worker.agent import Agent, Context, Kind, Message, Node, Text, Thought
from worker.conversation import MOST_HEARD, MOST_REMEMBERED, MOST_STREAMS, Conversation, Passage, text_data
from worker.graph import QUEUE_LENGTH, Graph
from worker.node import NodeBusyError
from worker.plan import make_plan
from worker.registry import GROUP, Registry


class Parrot(Agent):
    """Repeats, after what it remembers; or does what it is told."""

    async def chat(self, turn: Any) -> Any:
        turn.state["turns"] = turn.state.get("turns", 0) + 1
        match turn.question:
            case "fail":
                yield "half"
                raise ValueError("no more")
            case "exit":
                raise SystemExit(3)
            case "bad":
                yield 5
            case "history":
                yield " ".join(f"{m['role']}:{m['content']}" for m in turn.history)
            case "turns":
                yield str(turn.state["turns"])
            case "endless":
                while True:
                    yield "x"
            case _:
                yield Thought("hm")
                yield Text("you said ")
                await turn.say(turn.question)


class Ear(Node):
    """Keeps what it hears; waits at the message `wait`."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.go = asyncio.Event()

    async def on_message(self, message: Any) -> None:
        self.heard.put_nowait(message)
        if message.properties["text"] == "wait":
            await self.go.wait()

    async def segment(self) -> Any:
        """The properties of all pieces up to the end of a text."""
        found = []
        async with asyncio.timeout(20):
            while not found or not found[-1]["end_of_segment"]:
                found.append((await self.heard.get()).properties)
        return found


EXTRA = [EntryPoint(kind.__name__.lower(), f"{__name__}:{kind.__name__}", GROUP) for kind in (Parrot, Ear)]


class Bench:
    """A parrot whose text goes to an ear."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Any] = asyncio.Queue()
        flow = {"name": "text_data", "dest": [{"extension": "ear"}]}
        entry = {
            "name": "g",
            "nodes": [node("parrot", "parrot"), node("ear", "ear")],
            "connections": [{"extension": "parrot", "data": [flow]}],
        }
        plan = make_plan({"ten": {"predefined_graphs": [entry]}}, "g")
        self.graph = Graph(plan, Registry(EXTRA), channel="c", emit=self.emit)
        self.ear: Any = self.graph._members["ear"].node
        self.parrot: Any = self.graph._members["parrot"].node

    async def emit(self, frame: Any) -> Any:
        self.frames.put_nowait(frame)
        return 1

    def tell(self, text: Any, **properties: Any) -> None:
        message = Message(kind=Kind.DATA, name="text_data", properties={"text": text, **properties})
        self.graph._members["parrot"].queue.put_nowait(message)

    async def ask(self, text: Any, **properties: Any) -> Any:
        self.tell(text, **properties)
        return "".join(piece["text"] for piece in await self.ear.segment())

    async def error(self) -> Any:
        async with asyncio.timeout(20):
            frame = await self.frames.get()
        return (frame["t"], frame["node"], frame["error"])

    async def __aenter__(self) -> Any:
        await self.graph.start(20)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.graph.stop(5)


async def test_a_question_is_answered_along_the_connections() -> None:
    async with Bench() as bench:
        bench.tell("hello", stream_id=7)
        common = {"is_final": True, "stream_id": 7, "role": "assistant"}
        assert await bench.ear.segment() == [
            {"text": "you said ", "end_of_segment": False, **common},
            {"text": "hello", "end_of_segment": False, **common},
            {"text": "", "end_of_segment": True, **common},
        ]


async def test_a_conversation_between_nodes_is_remembered_and_bounded() -> None:
    async with Bench() as bench:
        await bench.ask("one")
        assert await bench.ask("history") == "user:one assistant:you said one"
        assert await bench.ask("turns") == "3"
        for number in range(MOST_REMEMBERED):
            await bench.ask(f"n{number}")
        history = await bench.ask("history")
        assert history.count("user:") == history.count("assistant:") == MOST_REMEMBERED // 2
        assert history.endswith(f"user:n{MOST_REMEMBERED - 1} assistant:you said n{MOST_REMEMBERED - 1}")


@pytest.mark.parametrize(
    ("question", "said", "told"),
    [
        ("fail", "half", "ValueError: no more"),
        ("exit", "", "SystemExit: 3"),
        ("bad", "", "ResponseError: a handler yields text (str) or "),
    ],
)
async def test_failures_are_told_as_the_node_s_state(question: Any, said: Any, told: Any) -> None:
    async with Bench() as bench:
        assert await bench.ask(question) == said
        kind, name, error = await bench.error()
        assert (kind, name) == ("state", "parrot")
        assert error.startswith(told)
        assert await bench.ask("history") == ""  # what failed is not remembered
        assert await bench.ask("on") == "you said on"


async def test_an_endless_answer_ends_with_the_graph() -> None:
    async with Bench() as bench:
        bench.tell("endless")
        async with asyncio.timeout(20):
            await bench.ear.heard.get()


def context(route: Any = None) -> Context:
    async def nowhere(*_: Any) -> Any:
        return 1

    return Context(node="n", addon="a", channel="c", properties={}, route=route or nowhere, emit=nowhere)


def heard(*pieces: Any) -> Any:
    conversation = Conversation(context())
    return [conversation.hear(Message(kind=Kind.DATA, name="text_data", properties=piece)) for piece in pieces]


@pytest.mark.parametrize(
    ("pieces", "questions"),
    [
        ([{"text": "a"}], [("a", 0)]),
        ([{"text": "a", "is_final": True, "end_of_segment": True, "stream_id": 3}], [("a", 3)]),
        ([{"text": "a", "is_final": False}, {"text": "ab", "is_final": True}], [None, ("ab", 0)]),
        ([{"text": "a", "end_of_segment": False}, {"text": "b", "end_of_segment": True}], [None, ("ab", 0)]),
        (
            [
                {"text": "a", "end_of_segment": False, "stream_id": 1},
                {"text": "b", "end_of_segment": False, "stream_id": 2},
                {"text": "", "end_of_segment": True, "stream_id": 1},
                {"text": "c", "end_of_segment": True, "stream_id": 2},
            ],
            [None, None, ("a", 1), ("bc", 2)],
        ),
        ([{"text": " \n"}, {}], [None, None]),
    ],
)
def test_pieces_become_questions(pieces: Any, questions: Any) -> None:
    assert heard(*pieces) == questions


@pytest.mark.parametrize("message", [Message(kind=Kind.CMD, name="text_data"), Message(kind=Kind.DATA, name="data")])
def test_other_messages_are_no_questions(message: Any) -> None:
    assert Conversation(context()).hear(message) is None


@pytest.mark.parametrize("piece", [{"text": 5}, {"text": "x", "stream_id": "y"}])
def test_what_is_no_text_is_refused(piece: Any) -> None:
    with pytest.raises(TypeError, match="text_data needs a string 'text' and an integer 'stream_id'"):
        heard(piece)


def test_questions_are_bounded() -> None:
    with pytest.raises(ValueError, match=f"more than {MOST_HEARD} characters"):
        heard({"text": "x" * (MOST_HEARD + 1)})
    begun = [{"text": "x", "end_of_segment": False, "stream_id": number} for number in range(MOST_STREAMS + 1)]
    ends = [{"text": "y", "stream_id": number} for number in (0, 1)]
    assert heard(*begun, *ends)[-2:] == [("y", 0), ("xy", 1)]


async def test_a_node_without_a_chat_takes_messages_and_does_nothing() -> None:
    await Agent(context()).on_message(text_data("x", role="user"))


async def test_a_passage_gives_up_on_who_is_behind() -> None:
    sent = []

    async def route(_: Any, message: Any) -> None:
        sent.append(message.properties["text"])
        if message.properties["text"] == "b":
            raise NodeBusyError("no place")

    passage = Passage(context(route))
    for text in "abc":
        await passage.say(text)
    await passage.say("", ended=True)
    assert sent == ["a", "b"]


async def test_a_receiver_that_is_behind_does_not_fail_an_answer_it_is_passed(monkeypatch: Any) -> None:
    monkeypatch.setattr(graph_module, "QUEUE_SECONDS", 0.05)
    async with Bench() as bench:
        passage = Passage(bench.parrot.context)
        await passage.say("wait")
        async with asyncio.timeout(20):
            await bench.ear.heard.get()
        for _ in range(QUEUE_LENGTH + 2):
            await passage.say("x")
        bench.ear.go.set()
        async with asyncio.timeout(20):
            for _ in range(QUEUE_LENGTH):
                await bench.ear.heard.get()
        assert bench.ear.heard.empty()


async def test_only_connections_to_nodes_that_are_there_are_passed_text() -> None:
    async with Bench() as bench:
        assert bench.graph.passes_on_text(bench.parrot)
        del bench.graph._members["ear"]
        assert not bench.graph.passes_on_text(bench.parrot)
        assert bench.graph.agent("chat") is bench.parrot
        assert bench.graph.agent("invoke") is bench.graph.agent(None) is None


# ---------------------------------------------------------------------- in a whole worker


FLOW = {"extension": "a", "data": [{"name": "text_data", "dest": [{"extension": "t"}]}]}


def signals(worker: Any, count: int) -> Any:
    found = [worker.until(lambda f: f["t"] == "signal") for _ in range(count)]
    return [(frame["role"], frame["text"], frame["end_of_segment"]) for frame in found]


def test_a_turn_from_outside_is_passed_on(play: Any) -> None:
    worker = play(node("a", "actor"), node("t", "thick"), connections=[FLOW])
    worker.ask("tiny 2")
    told = signals(worker, 4)
    assert told == [
        ("user", "tiny 2", True),
        ("assistant", "0 ", False),
        ("assistant", "1 ", False),
        ("assistant", "", True),
    ]
    worker.ask("value_error", "t2")
    assert signals(worker, 3) == [
        ("user", "value_error", True),
        ("assistant", "before", False),
        ("assistant", "", True),
    ]


def test_a_receiver_that_never_takes_anything_does_not_fail_a_turn(play: Any) -> None:
    worker = play(node("a", "actor"), node("t", "thick", hold=True), connections=[FLOW])
    events = worker.answer("tiny 400")  # after a wait of seconds for the one that is behind
    assert [event.get("text") for event in events] == [*(f"{number} " for number in range(400)), None]
    assert "turn.not_passed_on" in (worker.folder / "err").read_text()


def test_a_chat_between_nodes_does_not_wait_for_a_turn_from_outside(play: Any) -> None:
    flow = {"extension": "q", "data": [{"name": "text_data", "dest": [{"extension": "a"}]}]}
    worker = play(node("q", "asker"), node("a", "actor"), node("t", "thick"), connections=[flow, FLOW])
    worker.ask("waits_between")
    worker.event("text")
    signals(worker, 2)
    worker.command("send", properties={"text": "say from a node", "stream_id": 3})
    assert worker.reply()["ok"] is True
    worker.command("send", 2, properties={"text": "value_error"})
    assert worker.until(lambda f: "error" in f)["error"] == "ValueError: cannot ? do it"


# ---------------------------------------------------------------------- updates


def update(worker: Any, properties: Any, number: Any = 1) -> Any:
    worker.tell({"t": "update", "id": number, "properties": properties})
    frames = [worker.until(lambda f: f["t"] in {"reply", "state"})]
    while frames[-1]["t"] != "reply":
        frames.append(worker.until(lambda f: f["t"] in {"reply", "state"}))
    states = {frame["node"]: frame["properties"] for frame in frames[:-1]}
    return states, {key: value for key, value in frames[-1].items() if key not in {"t", "n"}}


def test_an_update_takes_effect_and_is_described_before_the_reply(play: Any) -> None:
    worker = play(node("o", "obedient", secret="x"), node("t", "thick"))
    worker.type("state")
    assert worker.answer()[0]["text"] == "hello"
    assert update(worker, {"o": {"word": "bye"}, "t": {"any": 1}}, 7) == (
        {"o": {"word": "bye"}},
        {"id": 7, "ok": True, "result": None},
    )
    assert worker.answer()[0]["text"] == "bye"
    assert update(worker, {"o": {"word": None}})[0] == {"o": {"word": "hello"}}
    assert update(worker, {}) == ({}, {"id": 1, "ok": True, "result": None})


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({"x": {}, "o": {"word": "y"}}, "no node x; there are o, s"),
        ({"o": {"word": 5}}, "node 'o' (add-on 'obedient'): word: Input should be a valid string, not 5"),
        ({"o": {"word": "y"}, "s": {"z": 1}}, "node 's' (add-on 'stubborn'): word: not now"),
        ({"o": 5}, "an update has an object of properties by node, not {'o': 5}"),
        (None, "an update has an object of properties by node, not None"),
    ],
)
def test_a_refused_update_changes_nothing(play: Any, properties: Any, told: Any) -> None:
    worker = play(node("o", "obedient", word="x"), node("s", "stubborn"))
    worker.type("state")
    assert update(worker, properties) == ({}, {"id": 1, "ok": False, "error": told})
    assert worker.answer()[0]["text"] == "x"


def test_an_update_is_answered_whatever_its_nodes_do(play: Any) -> None:
    worker = play(node("h", "shy"), node("s", "stubborn"))
    worker.type("ready")
    refused = update(worker, {"h": {"shy": True}, "s": {"x": 1}})[1]["error"]
    assert refused == "node 's' (add-on 'stubborn'): word: not now"
    assert "node.update_not_undone" in (worker.folder / "err").read_text()
    assert update(worker, {"h": {"more": 1}})[1] == {"id": 1, "ok": False, "error": "SystemExit: no words"}
    assert update(worker, {"s": {"x": 1}})[1]["ok"] is False


def test_an_update_does_not_wait_for_a_turn(play: Any) -> None:
    worker = play(node("o", "obedient"))
    worker.type("state")
    worker.ask("wait")
    worker.event("text")
    assert update(worker, {"o": {"word": "bye"}})[1]["ok"] is True
    worker.tell({"t": "cancel", "turn": "t1"})
    assert worker.events()[-1]["cause"] == "turn_cancelled"


async def test_the_default_update_takes_what_the_constructor_would() -> None:
    class Fussy(Node):
        def __init__(self, context: Context) -> None:
            super().__init__(context)
            if context.properties.get("x") == "bad":
                raise KeyError("x")
            context.handle("c", self.on_message)

    fussy = Fussy(context())
    fussy.update({"x": "good"})
    with pytest.raises(ValueError, match=r"^KeyError: 'x'$"):
        fussy.update({"x": "bad"})
