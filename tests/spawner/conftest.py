"""Fixtures for tests with the spawner alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.boss import Boss


@pytest.fixture
def boss(state_dir: Path) -> Iterator[Boss]:
    boss = Boss(state_dir)
    try:
        yield boss
    finally:
        boss.close()
