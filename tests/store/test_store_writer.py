"""The writer alone, with a database that does what the test says."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from supervisor.store import writer as module
from supervisor.store.errors import StoreError
from supervisor.store.statements import Counts, Rows, Stage
from supervisor.store.writer import Work, Writer


def sqlite_error(code: int, text: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


FULL = sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full")
ODD = sqlite_error(sqlite3.SQLITE_ERROR, "something else")


class Table:
    """A database in memory. `fault` is raised by each write, `refused` by rows of these numbers; `gate` holds back."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.transactions: list[list[int]] = []
        self.fault: Exception | None = None
        self.refused: dict[int, Exception] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.tried = asyncio.Event()

    async def write(self, rows: Rows) -> Counts:
        self.tried.set()
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        numbers = [row["n"] for stage in sorted(rows) for row in rows[stage]]
        for number in numbers:
            if number in self.refused:
                raise self.refused[number]
        self.rows += numbers
        self.transactions.append(numbers)
        return {stage: [7] * len(found) for stage, found in rows.items() if stage is Stage.FORGET}

    async def probe(self) -> None:
        if self.fault is not None:
            raise self.fault


def work(number: int, *, kept: bool = False, size: int = 10, stage: Stage = Stage.TURN_BEGUN) -> Work:
    return Work(((stage, {"n": number}),), size, kept=kept, done=asyncio.get_running_loop().create_future())


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
async def writer(table: Table, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Writer]:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.02)
    made = Writer(table.write, table.probe)
    made.start()
    yield made
    table.fault = None
    table.gate.set()
    await made.close(1.0)


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_what_waits_is_one_transaction(writer: Writer, table: Table) -> None:
    table.gate.clear()
    works = [work(n) for n in range(20)]
    writer.put(works[0])
    await table.tried.wait()
    for one in works[1:]:
        writer.put(one)
    table.gate.set()
    await asyncio.gather(*(one.done for one in works))
    assert table.transactions == [[0], list(range(1, 20))]


async def test_rows_are_written_in_the_order_of_their_stages(writer: Writer, table: Table) -> None:
    for number, stage in ((3, Stage.TURN_ENDED), (1, Stage.CONVERSATION), (2, Stage.TURN_BEGUN)):
        writer.put(work(number, stage=stage))
    await writer.settled()
    assert table.rows == [1, 2, 3]


async def test_who_asks_is_told_how_many_rows_there_were(writer: Writer) -> None:
    one = work(1, stage=Stage.FORGET)
    writer.put(one)
    assert await one.done == 7


@pytest.mark.parametrize("error", [sqlite3.IntegrityError("twice"), OverflowError("too large"), ODD])
async def test_a_bad_row_fails_alone(writer: Writer, table: Table, error: Exception) -> None:
    table.refused[2] = error
    works = [work(n) for n in range(5)]
    for one in works:
        writer.put(one)
    done = await asyncio.gather(*(one.done for one in works), return_exceptions=True)
    assert [str(result) for result in done] == ["0", "0", f"the store does not take it: {error}", "0", "0"]
    assert table.rows == [0, 1, 3, 4]
    assert writer.problem == ""


async def test_a_bad_row_that_is_alone_is_no_fault_of_the_store(writer: Writer, table: Table) -> None:
    table.refused[1] = ODD
    one = work(1)
    writer.put(one)
    with pytest.raises(StoreError, match="does not take it"):
        await one.done
    kept = work(1, kept=True)
    writer.put(kept)
    await kept.done
    assert (writer.problem, writer.lost, writer.idle) == ("", 1, True)


async def test_a_connection_that_was_lost_is_tried_once_more(writer: Writer, table: Table) -> None:
    errors = [ConnectionResetError("gone")]
    written = table.write

    async def write(rows: Rows) -> Counts:
        if errors:
            raise errors.pop()
        return await written(rows)

    writer._write_rows = write
    one = work(1)
    writer.put(one)
    await one.done
    assert (table.rows, writer.problem) == ([1], "")


async def test_what_is_awaited_fails_with_a_reason(writer: Writer, table: Table) -> None:
    table.fault = FULL
    works = [work(n) for n in range(3)]
    for one in works:
        writer.put(one)
    for one in works:
        with pytest.raises(StoreError, match="cannot be written: database or disk is full"):
            await one.done
    assert writer.problem == "database or disk is full"
    table.fault = None
    again = work(4)
    writer.put(again)
    await again.done
    assert (writer.problem, table.rows) == ("", [4])


async def test_what_is_on_record_only_is_kept_in_order(writer: Writer, table: Table) -> None:
    table.fault = FULL
    kept = [work(n, kept=True) for n in range(4)]
    writer.put(kept[0])
    await kept[0].done  # it is known to wait
    for one in kept[1:]:
        writer.put(one)
    begin = work(9)
    writer.put(begin)
    with pytest.raises(StoreError):
        await begin.done
    with pytest.raises(StoreError, match="database or disk is full"):
        await writer.settled()
    assert (table.rows, writer.waiting, writer.lost) == ([], 4, 0)
    table.fault = None
    await eventually(lambda: writer.idle)
    assert (table.rows, writer.problem, writer.lost) == ([0, 1, 2, 3], "", 0)


async def test_what_succeeds_wakes_what_was_kept(writer: Writer, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE", 3600.0)
    writer._pause = 3600.0
    table.fault = FULL
    kept = work(1, kept=True)
    writer.put(kept)
    await kept.done
    table.fault = None
    writer.put(work(2))
    await eventually(lambda: writer.idle)
    assert table.rows == [2, 1]


@pytest.mark.parametrize(("most", "most_bytes"), [(3, 1000), (100, 35)])
async def test_what_is_beyond_the_bounds_is_lost_and_counted(
    writer: Writer, table: Table, monkeypatch: pytest.MonkeyPatch, most: int, most_bytes: int
) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", most)
    monkeypatch.setattr(module, "MOST_KEPT_BYTES", most_bytes)
    table.fault = FULL
    kept = [work(n, kept=True) for n in range(10)]
    for one in kept:
        writer.put(one)
        await one.done
    assert (writer.waiting, writer.lost) == (3, 7)
    table.fault = None
    await eventually(lambda: writer.idle)
    assert table.rows == [0, 1, 2]
    writer.put(work(11, kept=True))  # there is room again
    await writer.settled()
    assert (table.rows[-1], writer.lost) == (11, 7)


async def test_what_is_awaited_is_bounded(writer: Writer, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_AWAITED", 2)
    table.gate.clear()
    works = [work(n) for n in range(4)]
    writer.put(works[0])
    await table.tried.wait()
    for one in works[1:]:
        writer.put(one)
    with pytest.raises(StoreError, match="more waits for the store than may"):
        await works[3].done
    table.gate.set()
    await works[2].done
    assert table.rows == [0, 1, 2]


async def test_large_work_is_not_one_transaction(writer: Writer, table: Table) -> None:
    works = [work(n, size=module.BATCH_BYTES // 2) for n in range(6)]
    for one in works:
        writer.put(one)
    await works[-1].done
    assert table.transactions == [[0, 1], [2, 3], [4, 5]]


async def test_withdrawing(writer: Writer, table: Table) -> None:
    table.gate.clear()
    first, second = work(1), work(2)
    writer.put(first)
    await table.tried.wait()
    writer.put(second)
    assert not writer.withdraw(first)
    assert writer.withdraw(second)
    table.gate.set()
    await writer.settled()
    assert table.rows == [1]


async def test_who_stops_waiting_disturbs_nobody(writer: Writer, table: Table) -> None:
    table.gate.clear()
    first, second = work(1), work(2)
    writer.put(first)
    writer.put(second)
    first.done.cancel()
    table.gate.set()
    await second.done
    assert table.rows == [1, 2]


async def test_closing_writes_what_waits(table: Table) -> None:
    writer = Writer(table.write, table.probe)
    writer.start()
    for number in range(1000):
        writer.put(work(number, kept=True))
    await writer.close(5.0)
    assert (table.rows, writer.lost) == (list(range(1000)), 0)


async def test_closing_is_bounded_and_counts_what_is_lost(table: Table) -> None:
    writer = Writer(table.write, table.probe)
    writer.start()
    table.gate.clear()
    begin = work(0)
    writer.put(begin)
    await table.tried.wait()
    for number in range(1, 4):
        writer.put(work(number, kept=True))
    await writer.close(0.01)
    assert (table.rows, writer.lost, writer.idle) == ([], 3, True)
    with pytest.raises(StoreError, match="closed"):
        await begin.done


@pytest.mark.parametrize("closed", [False, True])
async def test_a_writer_that_does_not_run_takes_nothing(table: Table, closed: bool) -> None:
    writer = Writer(table.write, table.probe)
    if closed:
        writer.start()
        await writer.close(1.0)
    begin, kept = work(1), work(2, kept=True)
    writer.put(begin)
    writer.put(kept)
    with pytest.raises(StoreError, match="not open"):
        await begin.done
    assert (writer.lost, writer.idle) == (1, True)
    await writer.close(1.0)
