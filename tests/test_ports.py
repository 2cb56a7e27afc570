"""supervisor.ports: case 80 of wire/ten-property.md."""

import socket
from collections.abc import Iterator

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.ports import FIRST, LAST, PortAllocator, is_free


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("count", [pytest.param(50, id="case-80")])
def test_live_workers_have_different_ports_each_free_when_picked(count: int) -> None:
    ports = PortAllocator()
    claimed = [ports.claim() for _ in range(count)]
    assert len(set(claimed)) == count
    for port in claimed:
        assert FIRST <= port <= LAST
        assert is_free(port)


def test_a_port_in_use_is_skipped_and_an_empty_range_is_a_refusal(taken: int) -> None:
    assert not is_free(taken)
    with pytest.raises(Refusal) as caught:
        PortAllocator(taken, taken).claim()
    assert caught.value.cause is Cause.SPAWN_FAILED
    assert str(taken) in caught.value.detail


def test_a_port_is_handed_out_again_only_after_its_release() -> None:
    port = PortAllocator().claim()
    ports = PortAllocator(port, port)
    assert ports.claim() == port
    with pytest.raises(Refusal):
        ports.claim()
    ports.release(port)
    ports.release(port)
    assert ports.claim() == port
