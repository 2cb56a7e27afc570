"""Pipes that are read in turn: who comes when, and that the loop sees others in between."""

import asyncio
import time

from supervisor.processes.rota import SLICE_SECONDS, Rota


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


async def test_one_that_is_alone_reads_at_once() -> None:
    rota = Rota()
    reads: list[int] = []
    for number in range(3):
        assert rota.take(lambda number=number: reads.append(number))  # type: ignore[misc]
        assert reads == list(range(number + 1))
        await asyncio.sleep(0)


async def test_those_who_do_not_get_their_turn_wait_in_order() -> None:
    rota = Rota()
    order: list[str] = []

    def read(name: str) -> None:
        order.append(name)
        busy(SLICE_SECONDS)

    loop = asyncio.get_running_loop()
    assert rota.take(lambda: read("a"))
    for name in "bcd":
        assert not rota.take(lambda name=name: read(name))  # type: ignore[misc]
    for number in range(3):
        loop.call_soon(order.append, f"other {number}")
        await asyncio.sleep(0)
    assert order[0] == "a"
    assert [name for name in order if len(name) == 1] == ["a", "b", "c", "d"]
    assert order.index("other 0") < order.index("c"), "the loop does not wait for all of them"
    await asyncio.sleep(0)
    assert rota.take(lambda: order.append("e")), "nobody waits any more"
    await asyncio.sleep(0)


async def test_quick_ones_share_a_slice() -> None:
    rota = Rota()
    count = 0

    def read() -> None:
        nonlocal count
        count += 1

    for _ in range(50):
        assert rota.take(read)
    assert count == 50
    rota.take(lambda: busy(SLICE_SECONDS))
    for _ in range(50):
        assert not rota.take(read)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert count == 100, "all that waited, in one go"


async def test_one_that_raises_holds_up_nobody() -> None:
    rota = Rota()
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))

    def fail() -> None:
        raise RuntimeError("no luck")

    rota.take(lambda: busy(SLICE_SECONDS))
    rota.take(fail)
    rota.take(lambda: told.append("read"))
    for _ in range(4):
        await asyncio.sleep(0)
    assert told == ["no luck", "read"]


def test_nobody_begins_while_something_else_comes_first() -> None:
    async def begin() -> list[str]:
        rota = Rota()
        order: list[str] = []
        rota.begin(lambda: order.append("at once"))
        rota.hold()
        for name in "ab":
            rota.begin(lambda name=name: order.append(name))  # type: ignore[misc]
        order.append("first")
        rota.release()
        rota.begin(lambda: order.append("c"))
        return order

    assert asyncio.run(begin()) == ["at once", "first", "a", "b", "c"]
