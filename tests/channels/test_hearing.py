"""What a worker says, and what nobody should say: nothing it writes may end the reading of what follows."""

from typing import Any

import orjson
import pytest
import structlog

from supervisor.channels.ending import Findings
from supervisor.channels.feed import Feed
from supervisor.channels.hearing import MOST_BAD_LINES, MOST_NODES, Hearing
from supervisor.processes.logs import Throttled

DEEP = "[" * 900 + "]" * 900


class Turn:
    """A listener that writes down what it hears."""

    id = "t1"

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.ends: list[tuple[dict[str, Any], Any]] = []
        self.gaps = 0

    def on_event(self, _number: int, event: dict[str, Any], _encoded: bytes) -> None:
        self.events.append(event)

    def on_end(self, event: dict[str, Any], state: Any) -> None:
        self.ends.append((event, state))

    def on_gap(self, lost: int) -> None:
        self.gaps += lost


class Ears:
    """A Hearing with all its ends in hand."""

    def __init__(self) -> None:
        self.feed = Feed("c")
        self.found = Findings()
        self.readies = 0
        self.replies: list[dict[str, Any]] = []
        self.broken: list[str] = []
        self.turn = Turn()
        self.hearing = Hearing(
            self.feed,
            self.found,
            Throttled(structlog.get_logger()),
            ready=self._ready,
            reply=self.replies.append,
            broken=self.broken.append,
        )
        self.hearing.listen(self.turn)

    def _ready(self) -> None:
        self.readies += 1

    def hear(self, line: str) -> None:
        self.hearing.on_frame(orjson.loads(line))


HOSTILE = [
    '{"t":"gap","n":1}',
    '{"t":"gap","n":1,"lost":"many"}',
    '{"t":"ready","n":1,"nodes":[{"name":"a","addon":"b","handles":7}]}',
    '{"t":"ready","n":1,"nodes":7,"skipped":' + DEEP + "}",
    '{"t":"bye","n":1,"cause":["x"],"detail":' + DEEP + "}",
    '{"t":"state","n":1,"node":[],"error":' + DEEP + "}",
    '{"t":"state","n":1,"node":"a","properties":{"a":' + DEEP + "}}",
    '{"t":"event","n":1,"turn":"t1","type":"text","text":' + DEEP + "}",
    '{"t":"event","n":1,"turn":"t1","type":' + DEEP + "}",
    '{"t":"event","n":1,"turn":"t1","type":"structured","value":' + DEEP + "}",
    '{"t":"event","n":1,"turn":{},"type":"usage"}',
    '{"t":"event","n":1}',
    '{"t":"event","n":1,"turn":"t1","type":"tool_call","id":"x","name":"y","arguments":[]}',
    '{"t":"event","n":1,"turn":"t1","type":"error"}',
    '{"t":"beat","n":1,"lag_ms":"late"}',
    '{"t":"signal","n":1,"name":' + DEEP + "}",
    '{"t":"no such","n":1}',
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_is_heard_what_follows_is_heard_too(line: str) -> None:
    ears = Ears()
    ears.hear(line)
    ears.hear('{"t":"event","n":2,"turn":"t1","type":"text","text":"well"}')
    assert [event["text"] for event in ears.turn.events if event["type"] == "text"] == ["well"]
    assert ears.turn.ends == []


def test_too_much_of_it_breaks_the_channel_once() -> None:
    ears = Ears()
    for _ in range(3 * MOST_BAD_LINES):
        ears.hear('{"t":"event","n":1,"turn":"t1","type":"nonsense"}')
    assert len(ears.broken) == 1
    assert "'nonsense'" in ears.broken[0]


def test_ready_counts_once_and_its_nodes_are_bounded() -> None:
    ears = Ears()
    nodes = [{"name": f"n{number}", "addon": "a", "handles": ["chat", "fly"]} for number in range(2 * MOST_NODES)]
    long = {"name": "x" * 1000, "addon": "a"}
    ears.hearing.on_frame({"t": "ready", "n": 1, "nodes": [long, *nodes]})
    ears.hearing.on_frame({"t": "ready", "n": 2, "nodes": [{"name": "late", "addon": "a"}]})
    assert ears.readies == 1
    assert len(ears.hearing.nodes) < MOST_NODES
    assert ears.hearing.nodes["n1"]["handles"] == ["chat"]
    assert "late" not in ears.hearing.nodes


def test_only_its_own_turn_is_heard_by_a_turn_and_all_by_who_watches() -> None:
    ears = Ears()
    for number, turn in enumerate(("t1", "t0", "t1"), 1):
        ears.hear(f'{{"t":"event","n":{number},"turn":"{turn}","type":"text","text":"{number}"}}')
    assert [event["text"] for event in ears.turn.events] == ["1", "3"]
    assert len(ears.feed.read(0)[1]) == 3


def test_an_ending_brings_the_state_which_nobody_else_sees() -> None:
    ears = Ears()
    ears.hear('{"t":"event","n":1,"turn":"t1","type":"final","state":{"secret":1},"ms":1}')
    [(event, state)] = ears.turn.ends
    assert state == {"secret": 1}
    assert "state" not in event
    ears.hearing.listen(None)
    ears.hear('{"t":"event","n":2,"turn":"t1","type":"final","state":{"secret":1},"ms":1}')
    assert b"secret" not in b"".join(ears.feed.read(0)[1])


def test_a_node_s_description_is_kept_unless_it_is_too_large() -> None:
    ears = Ears()
    ears.hear('{"t":"ready","n":1,"nodes":[{"name":"a","addon":"b"}]}')
    ears.hear('{"t":"state","n":2,"node":"a","properties":{"model":"m"}}')
    assert ears.hearing.nodes["a"]["properties"] == {"model": "m"}
    ears.hearing.on_frame({"t": "state", "n": 3, "node": "a", "properties": {"x": "y" * 100_000}})
    assert ears.hearing.nodes["a"]["properties"] == {"model": "m"}


def test_health_is_told_from_beats() -> None:
    ears = Ears()
    assert ears.hearing.health(2.0) == "ok"
    ears.hear('{"t":"beat","n":1,"lag_ms":900}')
    assert ears.hearing.health(2.0) == "slow"
    ears.hearing.last_sign -= 60
    assert ears.hearing.health(2.0) == "stuck"
