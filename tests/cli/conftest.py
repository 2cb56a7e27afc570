"""The command `agentd chat` in front of a server that answers as it is told to."""

import os
import signal
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
            os.kill(process.pid, signal.SIGKILL)  # Popen's would take the status of one that has ended
            await process.wait()
    await talker.runner.cleanup()
