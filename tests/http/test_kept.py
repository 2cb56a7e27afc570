"""Kept answers, with turns that are ended by hand and a shelf in memory: what is left of them when a client goes."""

import asyncio
from collections.abc import Sequence
from typing import Any

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects.base import Manner
from supervisor.http.kept import RESUME_BYTES, Kept, Restored
from supervisor.store.records import ResponseBegun, ResponseEnded, ResponseRow
from supervisor.turns.requests import TurnRequest
from supervisor.turns.turn import Item, Turn


class Sessions:
    """Turns that nobody carries out."""

    def begin(self, request: TurnRequest) -> Turn:
        turn = Turn("turn-1", request, lambda: None)
        turn.call()
        turn.admit()
        return turn


class Shelf:
    """Records in memory; `gate` holds back what ends."""

    def __init__(self) -> None:
        self.begun: dict[str, ResponseBegun] = {}
        self.ended: dict[str, ResponseEnded] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()

    def begin_response(self, record: ResponseBegun) -> None:
        self.begun[record.id] = record

    async def end_response(self, record: ResponseEnded) -> None:
        self.waiting.set()
        await self.gate.wait()
        self.ended[record.id] = record

    async def delete_response(self, response_id: str) -> bool:
        return self.begun.pop(response_id, None) is not None


class Echo:
    """A translator that tells every event as it came."""

    manner = Manner()
    source = "echo"

    def __init__(self, name: str = "r1", size: int = 1) -> None:
        self.id = name
        self.status = "begun"
        self._size = size

    def snapshot(self) -> dict[str, Any]:
        return {"status": self.status}

    def opening(self, _: Turn) -> list[bytes]:
        return [b"opening"]

    def events(self, items: list[Item]) -> Sequence[bytes]:
        self.status = items[-1].event["type"]
        return [item.encoded[:5] * self._size for item in items]


def request() -> TurnRequest:
    return TurnRequest(kind="chat", graph="g", user="u", session="s", messages=[{"role": "user", "content": "?"}])


def anybody(user: str, graph: str) -> bool:
    assert (user, graph) == ("u", "g")
    return True


def nobody(_user: str, _graph: str) -> bool:
    return False


def end(turn: Turn) -> None:
    turn.refuse(Refusal(Cause.CRASHED))


async def test_a_client_that_goes_while_the_end_is_put_on_record_leaves_nothing() -> None:
    shelf = Shelf()
    kept, translator = Kept(Sessions(), shelf), Echo()
    keeper = kept.keeper(translator)
    turn = Sessions().begin(request())
    keeper.begun(turn)
    assert kept.running("r1", "echo") is not None
    end(turn)
    translator.events(turn.take())
    shelf.gate.clear()
    handler = asyncio.create_task(keeper.over(turn))
    await shelf.waiting.wait()
    handler.cancel()
    await asyncio.wait({handler})
    keeper.left(turn)
    assert kept.running("r1", "echo") is None
    await kept.drain(1)


async def test_a_client_that_goes_before_the_end_is_followed_up() -> None:
    shelf = Shelf()
    kept = Kept(Sessions(), shelf)
    keeper = kept.keeper(Echo())
    turn = Sessions().begin(request())
    keeper.begun(turn)
    turn.leave()
    keeper.left(turn)
    assert kept.running("r1", "echo") is not None
    end(turn)
    await kept.drain(1)
    assert (shelf.ended["r1"].status, kept.running("r1", "echo")) == ("error", None)


async def test_what_runs_and_what_has_ended_belongs_to_its_api() -> None:
    kept = Kept(Sessions(), Shelf())
    run = kept.start(request(), Echo())
    assert (kept.running("r1", "echo"), kept.running("r1", "other")) == (run, None)
    end(run.turn)
    await run.over()
    assert kept.running("r1", "echo") is None
    recording = kept.recording("r1", "echo", anybody)
    assert recording is run.recording
    assert kept.recording("r1", "echo", nobody) is None
    assert recording is not None
    with recording.reader(0) as reader:
        assert recording.read(reader) == [b"opening", b"event"]
    assert kept.recording("r1", "other", anybody) is None
    await kept.drain(1)
    assert kept.recording("r1", "echo", anybody) is None


async def test_the_events_of_those_that_ended_first_go_first() -> None:
    kept = Kept(Sessions(), Shelf())
    for number in range(5):
        run = kept.start(request(), Echo(f"r{number}", size=RESUME_BYTES // 15))
        end(run.turn)
        await run.over()
    found = [kept.recording(f"r{number}", "echo", anybody) is not None for number in range(5)]
    assert found == [False, False, False, True, True]
    await kept.drain(1)


async def test_one_in_the_background_that_is_deleted_ends() -> None:
    kept = Kept(Sessions(), Shelf())
    run = kept.start(request(), Echo())
    assert await kept.delete("r1")
    assert run.turn.wish == (Cause.TURN_CANCELLED, run.turn.wish[1])
    end(run.turn)
    await run.over()
    assert (kept.running("r1", "echo"), kept.recording("r1", "echo", anybody)) == (None, None)
    assert not await kept.delete("r1")
    await kept.drain(1)


ROW = ResponseRow(
    id="r1",
    turn="turn-1",
    source="echo",
    graph="g",
    user="u",
    session="s",
    created_at=1.0,
    ended_at=None,
    status="begun",
    body=b"{}",
    input=b"[]",
)


async def test_one_of_an_earlier_server_goes_on_with_its_turn() -> None:
    for is_background in (True, False):
        shelf = Shelf()
        kept, turn = Kept(Sessions(), shelf), Sessions().begin(request())
        kept.adopt(ROW, turn, {"echo": lambda _, followed=is_background: Restored(Echo(), followed)})
        run = kept.running("r1", "echo")
        assert run is not None
        recording = kept.recording("r1", "echo", anybody)
        assert (recording is not None) == is_background
        end(turn)
        await run.over()
        assert shelf.ended["r1"].status == "error"
        if recording is not None:
            assert recording.next == 2  # its opening, and its end
        await kept.drain(1)


async def test_one_of_an_earlier_server_that_cannot_go_on_is_lost() -> None:
    def unreadable(_: ResponseRow) -> Restored:
        raise ValueError("of another version")

    for turn, restore in (
        (None, {}),
        (Sessions().begin(request()), {}),
        (Sessions().begin(request()), {"echo": unreadable}),
    ):
        shelf = Shelf()
        kept = Kept(Sessions(), shelf)
        kept.adopt(ROW, turn, restore)
        await kept.drain(1)
        assert (shelf.ended["r1"].status, shelf.ended["r1"].body) == ("begun", b"{}")
        assert kept.running("r1", "echo") is None
        if turn is not None:
            turn.on_event(1, {"type": "text", "text": "a"}, b"text")
            assert turn.take() == []  # nobody reads it, and it holds nobody up


async def test_one_that_is_left_to_the_next_server_does_not_end_on_record() -> None:
    shelf = Shelf()
    kept = Kept(Sessions(), shelf)
    run = kept.start(request(), Echo())
    run.turn.leave_behind()
    await run.over()
    assert shelf.ended == {}
    await kept.drain(1)


async def test_the_end_waits_for_no_reader() -> None:
    shelf = Shelf()
    kept = Kept(Sessions(), shelf)
    run = kept.start(request(), Echo(size=1024 * 1024))
    assert run.recording is not None
    with run.recording.reader(0) as reader:
        end(run.turn)
        async with asyncio.timeout(10):
            await run.over()  # though nothing is read
        assert run.recording.crowded
        assert len(run.recording.read(reader)) == 2
    await kept.drain(1)
