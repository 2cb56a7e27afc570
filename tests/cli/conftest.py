"""The command `agentd chat` in front of a server that answers as it is told to."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.talker import Talker


@pytest.fixture
async def talker(tmp_path: Path) -> AsyncIterator[Talker]:
    folder = tmp_path / "folder"
    folder.mkdir()
    talker = Talker(folder)
    await talker.open()
    yield talker
    for process in talker.processes:
        if process.returncode is None:
            process.kill()
            await process.wait()
    await talker.runner.cleanup()
