"""The command `agentd chat` in front of a server that answers as it is told to."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.impostor import Impostor


@pytest.fixture
async def impostor(tmp_path: Path) -> AsyncIterator[Impostor]:
    folder = tmp_path / "folder"
    folder.mkdir()
    impostor = Impostor(folder)
    await impostor.open()
    yield impostor
    await impostor.close()
    await impostor.runner.cleanup()
