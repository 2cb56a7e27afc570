"""Answers that are kept, so that they can be asked for again: those at work in this server, and those on record.

One in the foreground is put on record by its `Keeper` while its client reads it. One in the background has no client:
a task of ours reads it, and keeps its events for those who want to follow, also after it has ended, for a while.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import structlog

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects.base import Keeper, Translator, collect
from supervisor.http.envelope import encode
from supervisor.http.recording import Recording
from supervisor.store.errors import StoreError
from supervisor.store.records import ResponseBegun, ResponseEnded, ResponseRow

if TYPE_CHECKING:
    from supervisor.turns.requests import TurnRequest
    from supervisor.turns.sessions import Sessions
    from supervisor.turns.turn import Turn

log = structlog.get_logger("supervisor.kept")

RESUME_SECONDS: Final = 600.0  # that the events of a stream are kept after its end
RESUME_BYTES: Final = 32 * 1024 * 1024  # of all such streams
BASE_BYTES: Final = 4096  # that each of them takes besides its events
CANCEL_SECONDS: Final = 5.0  # for a cancelled one to end
MOST_SHOWN: Final = 200
LOOK_SECONDS: Final = 1.0  # from one look to the next whether somebody who is waited for still matters


class Shelf(Protocol):
    """Where answers are put on record."""

    def begin_response(self, record: ResponseBegun) -> None:
        """Put one that has begun on record soon."""

    async def end_response(self, record: ResponseEnded) -> None:
        """Put its end on record, if it is still there."""

    async def response(self, response_id: str) -> ResponseRow | None:
        """What is on record of it. Raises StoreError."""

    async def delete_response(self, response_id: str) -> bool:
        """Keep it no longer; whether it was there. Raises StoreError."""


class KeptTranslator(Translator, Protocol):
    """A translator whose answer can be kept."""

    id: str
    source: str

    @property
    def status(self) -> str:
        """The API's own word for how far it is."""

    def snapshot(self) -> dict[str, Any]:
        """The API's own object as it is now."""


class Run:
    """One answer at work here."""

    def __init__(self, turn: "Turn", translator: KeptTranslator, recording: Recording | None = None) -> None:
        """Only one in the background has a `recording`."""
        self.id = translator.id
        self.turn = turn
        self.translator = translator
        self.recording = recording
        self.ended = asyncio.Event()

    async def over(self) -> None:
        """Wait until it has ended and is on record."""
        await self.ended.wait()


class Restored(NamedTuple):
    """An answer that an earlier server began, as far as it is on record: its translator has heard nothing yet.

    Only one in the background is followed; it may take `seconds` more.
    """

    translator: KeptTranslator
    is_background: bool
    seconds: float | None = None


Restore = Callable[[ResponseRow], Restored]


class _Ended(NamedTuple):
    """What is left here of an answer in the background: its events, until the timer forgets them."""

    recording: Recording
    source: str
    request: "TurnRequest"
    timer: asyncio.TimerHandle


class Kept:
    """The kept answers of one server."""

    def __init__(self, sessions: "Sessions", store: Shelf) -> None:
        self._sessions = sessions
        self._store = store
        self._runs: dict[str, Run] = {}
        self._ended: dict[str, _Ended] = {}  # the one that ended first comes first
        self._ended_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self,
        wanted: "TurnRequest",
        translator: KeptTranslator,
        *,
        input: Sequence[dict[str, Any]] = (),  # noqa: A002 - as the API calls it
        seconds: float | None = None,
    ) -> Run:
        """Begin an answer in the background, which may take so many seconds. Raises Refusal."""
        turn = self._sessions.begin(wanted)
        recording = Recording()
        run = Run(turn, translator, recording)
        self._enter(run, input)
        self._own(self._carry(run, recording, seconds), f"background {run.id}")
        return run

    def adopt(self, row: ResponseRow, turn: "Turn | None", restore: Mapping[str, Restore]) -> None:
        """Go on with an answer that an earlier server began, by what `restore` has for its API.

        `turn` hears its worker from the beginning, and nobody reads it yet. Without a turn the answer is lost.
        """
        restored = None
        if turn is not None:
            try:
                restored = restore[row.source](row)
            except Exception as error:  # noqa: BLE001 - too large to be kept, of another version: no reason not to serve
                log.warning("response.not_adopted", response=row.id, error=repr(error)[:MOST_SHOWN])
                turn.skip()
        if turn is None or restored is None:
            self._own(self._lose(row), f"end of {row.id}")
            return
        turn.keep()
        recording = Recording() if restored.is_background else None
        run = self._runs[row.id] = Run(turn, restored.translator, recording)
        self._own(self._go_on(run, row, restored), f"adopted {run.id}")

    def keeper(
        self,
        translator: KeptTranslator,
        *,
        input: Sequence[dict[str, Any]] = (),  # noqa: A002 - as the API calls it
    ) -> Keeper:
        """Who keeps an answer that a client waits for."""
        return _Keeper(self, translator, input)

    def running(self, response_id: str, source: str) -> Run | None:
        """The answer of this id and API that is at work."""
        run = self._runs.get(response_id)
        return run if run is not None and run.translator.source == source else None

    def recording(self, response_id: str, source: str, owns: Callable[[str, str], bool]) -> Recording | None:
        """The events of the answer of this id and API, if they are here; `owns` tells by user and graph if they are."""
        run, ended = self.running(response_id, source), self._ended.get(response_id)
        if run is not None:
            request, recording = run.turn.request, run.recording
        elif ended is not None and ended.source == source:
            request, recording = ended.request, ended.recording
        else:
            return None
        return recording if owns(request.user, request.graph) else None

    async def row(self, response_id: str) -> ResponseRow | None:
        """What is on record of an answer. Raises Refusal(STORE_UNAVAILABLE)."""
        try:
            return await self._store.response(response_id)
        except StoreError as error:
            raise Refusal(Cause.STORE_UNAVAILABLE, str(error)) from error

    async def delete(self, response_id: str) -> bool:
        """Keep it no longer; whether it was kept. One at work in the background ends: nobody could reach it any more.

        Raises Refusal(STORE_UNAVAILABLE).
        """
        try:
            deleted = await self._store.delete_response(response_id)
        except StoreError as error:
            raise Refusal(Cause.STORE_UNAVAILABLE, str(error)) from error
        run = self._runs.pop(response_id, None)
        if run is not None and run.recording is not None:
            run.turn.cancel(Cause.TURN_CANCELLED)
        self._forget(response_id)
        return deleted

    async def cancel(self, run: Run) -> None:
        """Cancel it, and wait until it has ended."""
        run.turn.cancel(Cause.TURN_CANCELLED)
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await run.over()
        except TimeoutError:  # its client takes nothing, or the store does not answer
            log.info("response.cancel_late", response=run.id, after_seconds=CANCEL_SECONDS)

    async def drain(self, seconds: float) -> None:
        """Wait until the background work has ended, whose turns have; what takes longer is cancelled."""
        for response_id in tuple(self._ended):
            self._forget(response_id)
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=seconds)
        for task in late:
            log.error("response.late", task=task.get_name(), after_seconds=seconds)
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1)

    # ------------------------------------------------------------------ one run

    async def _go_on(self, run: Run, row: ResponseRow, restored: Restored) -> None:
        """See one of an earlier server to its end, unless its worker cannot tell its beginning any more."""
        turn, recording = run.turn, run.recording
        await turn.told_again()  # bounded by the turn's own end, which its session sees to
        if turn.is_beheaded:
            turn.skip()
            try:
                await self._lose(row)
            finally:
                if recording is not None:
                    recording.close()
                self._leave(run)
        elif recording is None:
            await self._see_end(run)
        else:
            await self._carry(run, recording, restored.seconds)

    async def _lose(self, row: ResponseRow) -> None:
        """It has ended on record as it was there, not complete: that is how a lost one is told."""
        await self._store.end_response(ResponseEnded(id=row.id, status=row.status, body=row.body))

    async def _carry(self, run: Run, recording: Recording, seconds: float | None) -> None:
        turn, translator = run.turn, run.translator
        timer = None
        if seconds is not None:
            detail = f"no answer within {seconds:g} s"
            timer = asyncio.get_running_loop().call_later(seconds, turn.cancel, Cause.TURN_TIMEOUT, detail)
        try:
            with contextlib.suppress(Refusal):  # which is the turn's last event as well
                await turn.admitted()
            recording.add(translator.opening(turn))
            while not turn.over:
                items = turn.take()
                if not items:
                    await turn.wait()
                for start in range(0, len(items), translator.manner.batch):
                    frames = translator.events(items[start : start + translator.manner.batch])
                    await self._conclude(run)
                    # As in the foreground the reader sets the pace; at the end nobody is waited for any more.
                    while recording.crowded and turn.wish is None and not turn.ended:
                        await recording.wait_for_readers(LOOK_SECONDS)
                    recording.add(frames)
        finally:
            if timer is not None:
                timer.cancel()
            turn.leave()
            recording.close()
            self._leave(run)

    def _enter(self, run: Run, given: Sequence[dict[str, Any]]) -> None:
        request, translator = run.turn.request, run.translator
        run.turn.keep()
        self._runs[run.id] = run
        self._store.begin_response(
            ResponseBegun(
                id=run.id,
                turn=run.turn.id,
                source=translator.source,
                graph=request.graph,
                user=request.user,
                session=request.session or "",
                created_at=run.turn.began_at,
                status=translator.status,
                body=encode(translator.snapshot()),
                input=encode(list(given)),
            )
        )

    async def _conclude(self, run: Run) -> None:
        if run.turn.over and not run.turn.left:  # one that is left goes on with the next server
            translator = run.translator
            ended = ResponseEnded(id=run.id, status=translator.status, body=encode(translator.snapshot()))
            await self._store.end_response(ended)

    def _leave(self, run: Run) -> None:
        """It is at work no more; its events stay for a while."""
        run.ended.set()
        run.turn.release()
        if self._runs.get(run.id) is not run:
            return
        del self._runs[run.id]
        recording = run.recording
        if recording is None or not recording.next:  # one without events, as tasks are
            return
        timer = asyncio.get_running_loop().call_later(RESUME_SECONDS, self._forget, run.id)
        self._ended[run.id] = _Ended(recording, run.translator.source, run.turn.request, timer)
        self._ended_bytes += BASE_BYTES + recording.size
        while self._ended_bytes > RESUME_BYTES:
            self._forget(next(iter(self._ended)))

    def _forget(self, response_id: str) -> None:
        ended = self._ended.pop(response_id, None)
        if ended is not None:
            ended.timer.cancel()
            self._ended_bytes -= BASE_BYTES + ended.recording.size

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("response.failed", task=task.get_name(), exc_info=error)

    # ------------------------------------------------------------------ for keepers

    def enter(self, turn: "Turn", translator: KeptTranslator, given: Sequence[dict[str, Any]]) -> Run:
        """An answer in the foreground begins."""
        run = Run(turn, translator)
        self._enter(run, given)
        return run

    async def conclude(self, run: Run) -> None:
        """It has ended and is put on record."""
        try:
            await self._conclude(run)
        finally:
            self._leave(run)

    def abandon(self, run: Run) -> None:
        """Its client has gone: a task of ours sees its end, which is soon."""
        self._own(self._see_end(run), f"end of {run.id}")

    async def _see_end(self, run: Run) -> None:
        try:
            await collect(run.turn, run.translator, None)
            await self._conclude(run)
        finally:
            self._leave(run)


class _Keeper:
    """Keeps one answer in the foreground."""

    def __init__(self, kept: Kept, translator: KeptTranslator, given: Sequence[dict[str, Any]]) -> None:
        self._kept = kept
        self._translator = translator
        self._given = given
        self._run: Run | None = None

    def begun(self, turn: "Turn") -> None:
        """It is at work."""
        self._run = self._kept.enter(turn, self._translator, self._given)

    async def over(self, _: "Turn") -> None:
        """It has ended."""
        if self._run is not None:
            run, self._run = self._run, None
            await self._kept.conclude(run)

    def left(self, _: "Turn") -> None:
        """Its client has gone, or has all of it."""
        if self._run is not None:
            self._kept.abandon(self._run)
