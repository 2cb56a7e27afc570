"""Fixtures for tests with a whole server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import ZOO
from tests.harness import Agentd
from tests.harness.nursery import Nursery
from tests.harness.witness import Witness, witness_in
from tests.harness.zoo import Zoo


@pytest.fixture
async def witness(tmp_path: Path) -> AsyncIterator[Witness]:
    """Hears what the beasts of this test say."""
    with witness_in(tmp_path) as witness:
        yield witness


@pytest.fixture(params=["auto", "sweep"])
async def zoo(request: pytest.FixtureRequest, agentd: Agentd, witness: Witness) -> AsyncIterator[Zoo]:
    """A zoo under both levels of containment; the bystander is looked after when the test has passed."""
    zoo = Zoo(agentd, witness, request.param)
    yield zoo
    try:
        await zoo.close()
    finally:
        await zoo.abort()


@pytest.fixture
async def successor(agentd: Agentd, tmp_path: Path, nursery: Nursery | None) -> AsyncIterator[Agentd]:
    """A second server on the state folder of `agentd`, not started yet."""
    server = Agentd(agentd.state_dir, tmp_path, extra_path=ZOO, nursery=nursery)
    try:
        yield server
    finally:
        await server.stop()
