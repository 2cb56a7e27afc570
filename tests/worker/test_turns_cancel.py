"""Turns that are cancelled, held up, queued or stopped, in a whole worker."""

import json
import os
from typing import Any

import pytest

from tests.harness.living import bare, node
from worker.outbox import FIRST_FRAMES
from worker.turns import MOST_WAITING

CANCELLED = {"type": "error", "cause": "turn_cancelled", "kind": "CancelledError", "message": "cancelled"}
STOPPED = CANCELLED | {"message": "the worker stops"}
FINAL = {"type": "final"}


def cancel(worker: Any, number: Any = "t1") -> None:
    worker.tell({"t": "cancel", "turn": number})


def goes_on(worker: Any) -> None:
    assert worker.answer("say on", "next") == [{"type": "text", "text": "on"}, FINAL]


def together(worker: Any, *frames: Any) -> None:
    """Frames that the worker reads at once."""
    os.write(worker.down, b"".join(json.dumps(frame).encode() + b"\n" for frame in frames))


TURN = {"t": "turn", "turn": "t1", "kind": "chat", "request": {"messages": [{"role": "user", "content": "waits"}]}}


def test_cancelled_before_its_first_step(play: Any) -> None:
    worker = play()
    worker.type("ready")
    together(worker, TURN, {"t": "cancel", "turn": "t1"})
    assert worker.events() == [CANCELLED]
    goes_on(worker)


def test_cancelled_before_its_first_event(play: Any) -> None:
    worker = play()
    worker.type("ready")
    worker.ask("waits")
    worker.tell({"t": "command", "id": 1})  # by the time this is refused the handler waits
    worker.reply()
    cancel(worker)
    assert worker.events() == [CANCELLED | {"state": {"cleaned": "t1"}}]
    goes_on(worker)


def test_cancelled_between_events(play: Any) -> None:
    worker = play()
    worker.ask("waits_between")
    worker.event("text")
    cancel(worker)
    assert worker.events() == [CANCELLED]
    goes_on(worker)


@pytest.mark.parametrize(
    ("question", "left"),
    [
        ("endless", {}),
        ("endless_nothing", {"state": {"cancelled": True}}),
        ("sees_cancelled_at_yield", {"state": {"cleaned": True}}),
    ],
)
def test_a_handler_that_never_waits_is_cancelled_and_the_worker_beats(play: Any, question: Any, left: Any) -> None:
    worker = play(beat_seconds=0.02)
    worker.ask(question)
    for _ in range(2):
        worker.type("beat")
    cancel(worker)
    assert worker.events()[-1] == CANCELLED | left
    goes_on(worker)


@pytest.mark.parametrize("question", ["endless", "sees_cancelled_at_yield"])
def test_cancelled_while_the_window_is_full(play: Any, question: Any) -> None:
    """A reader that does not take what it gets: the ending comes all the same, behind what was said before."""
    worker = play(beat_seconds=0.02)
    worker.type("ready")
    worker.acknowledging = False
    worker.ask(question)
    worker.until(lambda f: f["n"] >= FIRST_FRAMES)
    cancel(worker)
    assert worker.events()[-1]["cause"] == "turn_cancelled"
    assert worker.last < FIRST_FRAMES + 100
    worker.acknowledging = True
    worker.tell({"t": "ack", "n": worker.last})
    goes_on(worker)


@pytest.mark.parametrize("name", ["forever", "blocking"])
def test_cancelled_in_a_tool(play: Any, name: Any) -> None:
    worker = play()
    flag = worker.folder / "flag"
    worker.ask(f"uses {name} {flag}")
    worker.event("tool_call")
    cancel(worker)
    assert worker.events() == [CANCELLED]
    goes_on(worker)
    flag.touch()
    worker.tell({"t": "stop", "grace": 5})
    assert worker.wait() == 0


@pytest.mark.parametrize("question", ["swallows", "swallows_and_returns", "fails_when_cancelled"])
def test_whatever_a_cancelled_handler_does_its_turn_is_cancelled(play: Any, question: Any) -> None:
    worker = play()
    worker.ask(question)
    worker.event("text")
    cancel(worker)
    assert worker.events() == [CANCELLED]
    goes_on(worker)


def test_a_handler_that_does_not_end_is_left_until_the_worker_stops(play: Any) -> None:
    worker = play()
    worker.ask("swallows_and_hangs")
    worker.event("text")
    for _ in range(2):
        cancel(worker)
        worker.until(lambda f: "swallowed" in f)
    worker.ask("say never", "t2")
    worker.tell({"t": "stop", "grace": 0.5})
    ended = [worker.until(lambda f: f["t"] == "event") for _ in range(2)]
    assert {frame["turn"]: bare(frame) for frame in ended} == {"t1": STOPPED, "t2": STOPPED}
    assert worker.type("bye")["cause"] == "stopped"
    assert worker.wait() == 0
    assert "turn.stop_late" in (worker.folder / "err").read_text()


def test_a_turn_that_waits_is_cancelled_at_once(play: Any) -> None:
    worker = play()
    worker.ask("waits_between", "t1")
    worker.event("text")
    path = worker.folder / "2.json"
    path.write_text("{}")
    worker.tell({"t": "turn", "turn": "t2", "kind": "chat", "file": "2.json"})
    worker.ask("say x", "t3")
    cancel(worker, "t2")
    assert worker.events("t2") == [CANCELLED]
    assert not path.exists()
    cancel(worker, "t1")
    assert worker.events("t1") == [CANCELLED]
    assert worker.events("t3") == [{"type": "text", "text": "x"}, FINAL]


@pytest.mark.parametrize("number", ["other", None, 5, ["t1"], "ended"])
def test_a_cancel_of_no_turn_of_ours_does_nothing(play: Any, number: Any) -> None:
    worker = play()
    worker.answer("say x", "ended")
    worker.ask("waits_between")
    worker.event("text")
    cancel(worker, number)
    cancel(worker)
    assert worker.events() == [CANCELLED]
    assert not [frame for frame in worker.frames if frame["t"] == "event"]


def test_turns_follow_one_another_and_no_more_than_a_few_wait(play: Any) -> None:
    worker = play()
    worker.ask("waits_between", "t0")
    worker.event("text", "t0")
    for number in range(1, MOST_WAITING + 2):
        worker.ask(f"say {number}", f"t{number}")
    [refused] = worker.events(f"t{MOST_WAITING + 1}")
    assert (refused["cause"], refused["kind"]) == ("agent_error", "BusyError")
    assert refused["message"] == "8 turns wait already, which is the most"
    worker.ask("say again", "t1")  # left out: it waits already
    cancel(worker, "t0")
    assert worker.events("t0") == [CANCELLED]
    for number in range(1, MOST_WAITING + 1):
        assert worker.events(f"t{number}") == [{"type": "text", "text": str(number)}, FINAL]
    assert "turn.repeated" in (worker.folder / "err").read_text()


def test_turns_that_come_before_the_graph_has_started(play: Any) -> None:
    worker = play(resume=False)
    worker.ask("say early", "t1")
    worker.ask("say later", "t2")
    cancel(worker, "t2")
    worker.attach()
    found = {}
    while len(found) < 2:
        frame = worker.until(lambda f: f.get("type") in {"final", "error"})
        found[frame["turn"]] = bare(frame)
    assert found == {"t1": FINAL, "t2": CANCELLED}


# ---------------------------------------------------------------------- the window


def test_a_reader_that_stops_holds_up_the_turn_and_nothing_is_lost(play: Any) -> None:
    worker = play(node("a", "actor"), beat_seconds=0.02)
    worker.type("ready")
    worker.acknowledging = False
    worker.ask("tiny 5000")
    frames: list[Any] = []
    while len(frames) < FIRST_FRAMES - 1:
        worker.read()
        frames += worker.frames
        worker.frames.clear()
    while frames[-1]["t"] != "beat":  # it lives, and sends no more of the turn
        worker.read()
        frames += worker.frames
        worker.frames.clear()
    assert len([frame for frame in frames if frame["t"] == "event"]) <= FIRST_FRAMES
    worker.acknowledging = True
    worker.tell({"t": "ack", "n": worker.last})
    found = [bare(frame) for frame in frames if frame["t"] == "event"] + worker.events()
    assert [event.get("text") for event in found] == [*(f"{number} " for number in range(5000)), None]


def test_an_ending_waits_for_room_and_can_be_cancelled_meanwhile(play: Any) -> None:
    worker = play(beat_seconds=60)
    worker.type("ready")
    worker.acknowledging = False
    worker.ask(f"tiny {FIRST_FRAMES}")  # which fill the window; `ready` is acknowledged
    worker.until(lambda f: f["n"] == FIRST_FRAMES + 1)
    cancel(worker)
    assert bare(worker.until(lambda f: True)) == CANCELLED


# ---------------------------------------------------------------------- handlers that block


def test_what_a_blocking_handler_said_before_is_out_at_once(play: Any) -> None:
    worker = play()
    flag = worker.folder / "flag"
    worker.ask(f"blocks {flag}")
    assert worker.event("text")["text"] == "a"
    flag.touch()
    assert worker.events() == [{"type": "text", "text": "b"}, FINAL]


def test_a_blocking_handler_is_seen_as_slow(play: Any) -> None:
    worker = play(beat_seconds=0.02)
    worker.type("beat")
    worker.ask("sleeps")
    assert worker.until(lambda f: f["t"] == "beat" and f["lag_ms"] >= 200)


# ---------------------------------------------------------------------- the end of the worker


@pytest.mark.parametrize("way", ["frame", "signal"])
def test_a_stop_cancels_the_turns_and_says_so_before_its_last_word(play: Any, way: Any) -> None:
    worker = play()
    worker.type("ready")
    worker.ask("waits")
    worker.ask("say x", "t2")
    worker.tell({"t": "command", "id": 1})
    worker.reply()
    worker.process.terminate() if way == "signal" else worker.tell({"t": "stop", "grace": 5})
    rest = [worker.until(lambda f: f["t"] in {"event", "bye"}) for _ in range(3)]
    assert [(f["t"], f.get("turn")) for f in rest] == [("event", "t2"), ("event", "t1"), ("bye", None)]
    assert [bare(frame) for frame in rest[:2]] == [STOPPED, STOPPED | {"state": {"cleaned": "t1"}}]
    assert worker.wait() == 0


def test_a_turn_of_a_worker_that_does_not_start(play: Any) -> None:
    worker = play(node("z", "zebra"))
    worker.ask("say x")
    rest = [worker.until(lambda f: True)]
    while rest[-1]["t"] != "bye":
        rest.append(worker.until(lambda f: True))
    assert rest[-1]["cause"] == "addons_missing"
    assert [bare(frame) for frame in rest[:-1]] in ([], [STOPPED])  # in time, or never read
    assert worker.wait() == 3
