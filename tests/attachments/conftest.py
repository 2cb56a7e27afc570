"""Fixtures for tests of attachments."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.desk import Desk, MakeDesk, desks


@pytest.fixture
async def make_desk(state_dir: Path) -> AsyncIterator[MakeDesk]:
    """Opens desks, see `desks`."""
    async with desks(state_dir) as make:
        yield make


@pytest.fixture
async def desk(make_desk: MakeDesk) -> Desk:
    return await make_desk()


@pytest.fixture
def fake(tmp_path: Path) -> dict[str, str]:
    """The environment in which the reader does what the file says, which is Python: it is taken over."""
    package = tmp_path / "fake" / "worker" / "reader"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "__main__.py").write_text("exec(open('input').read())\n")
    return {"PYTHONPATH": str(tmp_path / "fake")}
