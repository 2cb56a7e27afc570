"""The one task that writes: all that waits becomes one transaction.

A write that somebody awaits (the beginning of a turn) fails with the transaction, so that its turn is refused. What is
only on record (endings, the ledger) is kept and tried again, with growing pauses, until the store is well; what is
beyond the bounds is dropped, counted and told. A row the database refuses fails alone, not all that came with it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from supervisor.store.errors import StoreError
from supervisor.store.faults import Fault, fault_of, reason_of
from supervisor.store.statements import Counts, Row, Rows, Stage

log = structlog.get_logger("supervisor.store")

MOST_KEPT: Final = 8192
MOST_KEPT_BYTES: Final = 64 * 1024 * 1024
MOST_AWAITED: Final = 4096
BATCH: Final = 512
BATCH_BYTES: Final = 16 * 1024 * 1024
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
LOST_LOG_SECONDS: Final = 10.0


@dataclass(slots=True, eq=False)
class Work:
    """Rows that belong together. `kept`: tried again until written; `done` gets how many were met, or why none."""

    writes: tuple[tuple[Stage, Row], ...]
    size: int
    kept: bool
    done: asyncio.Future[int] | None = None
    started: bool = field(default=False, init=False)  # it cannot be withdrawn any more
    held: bool = field(default=False, init=False)  # it counts among what is kept

    def finish(self, count: int = 0) -> None:
        """It is written."""
        if self.done is not None and not self.done.done():
            self.done.set_result(count)

    def fail(self, error: StoreError) -> None:
        """It is not written, and will not be."""
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)


class Writer:
    """Writes work in the order it was put in. `start` before use, `close` at the end."""

    def __init__(self, write: Callable[[Rows], Awaitable[Counts]], probe: Callable[[], Awaitable[None]]) -> None:
        """`write` writes all or nothing, `probe` tells whether anything can be written; both raise what went wrong."""
        self._write_rows = write
        self._probe = probe
        self._fresh: deque[Work] = deque()
        self._kept: deque[Work] = deque()  # what could not be written so far; the fresh comes after it
        self._held = 0
        self._held_bytes = 0
        self._wake = asyncio.Event()
        self._batch: list[Work] = []  # what is being written
        self._retry_at = 0.0
        self._pause = FIRST_PAUSE
        self._unwell_since: float | None = None
        self._failed = False
        self._loss = ""
        self._lost_told = 0
        self._lost_log_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self.problem = ""
        self.lost = 0

    @property
    def idle(self) -> bool:
        """Whether all is written."""
        return not self._fresh and not self._kept and not self._batch

    @property
    def waiting(self) -> int:
        """How many records wait to be written."""
        return len(self._batch) + len(self._fresh) + len(self._kept)

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name="store writer")

    def put(self, work: Work) -> None:
        """Write this with the next transaction; where there is no room for it, it is lost or fails at once."""
        reason = self._obstacle(work)
        if reason and work.kept:
            self._lose(work, reason)
        elif reason:
            work.fail(StoreError(reason))
        else:
            self._hold(work)
            self._fresh.append(work)
            self._wake.set()

    def withdraw(self, work: Work) -> bool:
        """Forget work that was put in; False when it is being written already."""
        if work.started:
            return False
        if work in self._fresh:
            self._fresh.remove(work)
        return True

    async def settled(self) -> None:
        """Wait until all that was put in so far is written. Raises StoreError when it cannot be at present."""
        while not self.idle:
            done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self.put(Work((), 0, kept=False, done=done))
            await done
            if not self._kept:
                return
            if self._failed:
                raise StoreError(f"the store is not up to date: {self.problem}")

    async def close(self, seconds: float) -> None:
        """Write what waits, at most so long; what is left after that is lost, counted and told."""
        task = self._task
        if task is None:
            return
        self._retry_at = 0.0
        self._wake.set()
        try:
            async with asyncio.timeout(seconds):
                await self.settled()
        except (StoreError, TimeoutError) as error:
            log.warning("store.close_incomplete", reason=reason_of(error))
        self._task = None
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()  # it ends by itself only for an error of ours
        for work in (*self._batch, *self._kept, *self._fresh):
            if work.held:
                self._lose(work, "the server ended")
            work.fail(StoreError("the store is closed"))
        self._batch = []
        self._kept.clear()
        self._fresh.clear()
        self._tell_lost()

    async def _run(self) -> None:
        while True:
            await self._wait()
            self._batch = self._take()
            if self._batch:
                await self._write(self._batch)
                self._batch = []

    async def _wait(self) -> None:
        """Until there is something to do: work that is fresh, or the time to try again."""
        if not self._fresh:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._retry_at if self._kept else None):
                    await self._wake.wait()
        self._wake.clear()

    def _take(self) -> list[Work]:
        """The next transaction: what was kept once its time has come, then what is fresh."""
        if self._kept:  # in order: what is fresh and only on record comes after it
            self._kept.extend(work for work in self._fresh if work.kept)
            self._fresh = deque(work for work in self._fresh if not work.kept)
        batch: list[Work] = []
        room = BATCH_BYTES
        due = self._kept if asyncio.get_running_loop().time() >= self._retry_at else deque[Work]()
        for queue in (due, self._fresh):
            while queue and len(batch) < BATCH and room > 0:
                work = queue.popleft()
                work.started = True
                room -= work.size
                batch.append(work)
        return batch

    async def _write(self, batch: list[Work]) -> None:
        """Write a transaction; when it fails, each work in one of its own, unless the store is the cause."""
        error = await self._try(batch)
        if error is None:
            self._is_well()
            return
        again = len(batch) > 1 or fault_of(error) in (Fault.CONNECTION, Fault.UNKNOWN)
        for index, work in enumerate(batch):
            if again:
                error = await self._try([work])
            if error is None:
                continue
            if not await self._refuses(error):
                self._is_unwell(batch[index:], error)
                return
            self._refuse(work, error)
        self._is_well()

    async def _try(self, batch: list[Work]) -> Exception | None:
        """Write this in one transaction; what went wrong, else None."""
        rows: Rows = {}
        for work in batch:
            for stage, row in work.writes:
                rows.setdefault(stage, []).append(row)
        try:
            counts = await self._write_rows(rows) if rows else {}
        except Exception as error:  # noqa: BLE001 - whatever a driver raises for whatever an agent said; it is told
            return error
        for work in batch:
            self._let_go(work)
            work.finish(sum(counts[stage].pop(0) for stage, _ in work.writes if stage in counts))
        return None

    async def _refuses(self, error: Exception) -> bool:
        """Whether the database is well and does not take this very row."""
        fault = fault_of(error)
        if fault is not Fault.UNKNOWN:
            return fault is Fault.ROW
        try:
            await self._probe()
        except Exception as probe_error:  # noqa: BLE001 - whatever it is, the database is not well
            log.debug("store.probe_failed", reason=reason_of(probe_error))
            return False
        return True

    def _refuse(self, work: Work, error: Exception) -> None:
        reason = f"the store does not take it: {reason_of(error)}"
        if work.kept:
            self._lose(work, reason)
        else:
            work.fail(StoreError(reason))

    def _is_unwell(self, works: list[Work], error: Exception) -> None:
        self.problem = reason_of(error)
        self._failed = True
        loop = asyncio.get_running_loop()
        if self._unwell_since is None:
            self._unwell_since = loop.time()
            log.error("store.unwell", reason=self.problem)
        uncertain = fault_of(error) is Fault.CONNECTION or isinstance(error, TimeoutError)
        for work in works:
            if work.kept:
                work.finish()
            else:
                work.fail(StoreError(f"the store cannot be written: {self.problem}", uncertain=uncertain))
        self._kept.extendleft(work for work in reversed(works) if work.kept)
        self._retry_at = loop.time() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _is_well(self) -> None:
        """A transaction succeeded: what was kept may be tried now, and when nothing is kept all is well again."""
        self._failed = False
        self._retry_at = 0.0
        if self._kept or self._unwell_since is None:
            return
        seconds = asyncio.get_running_loop().time() - self._unwell_since
        log.info("store.well", seconds=round(seconds, 3), lost=self.lost)
        self._unwell_since = None
        self._pause = FIRST_PAUSE
        self.problem = ""
        self._tell_lost()

    def _obstacle(self, work: Work) -> str:
        if self._task is None:
            return "the store is not open"
        if work.kept:
            full = self._held >= MOST_KEPT or self._held_bytes + work.size > MOST_KEPT_BYTES
        else:
            full = len(self._fresh) >= MOST_AWAITED
        return "more waits for the store than may" if full else ""

    def _hold(self, work: Work) -> None:
        if work.kept:
            work.held = True
            self._held += 1
            self._held_bytes += work.size

    def _let_go(self, work: Work) -> None:
        if work.held:
            work.held = False
            self._held -= 1
            self._held_bytes -= work.size

    def _lose(self, work: Work, reason: str) -> None:
        """A record that will not be written; told at once, then in sums."""
        self._let_go(work)
        self.lost += 1
        work.finish()
        self._loss = reason
        if asyncio.get_running_loop().time() >= self._lost_log_at:
            self._tell_lost()

    def _tell_lost(self) -> None:
        if self.lost > self._lost_told:
            log.error("store.entries_lost", count=self.lost - self._lost_told, total=self.lost, reason=self._loss)
            self._lost_told = self.lost
            self._lost_log_at = asyncio.get_running_loop().time() + LOST_LOG_SECONDS
