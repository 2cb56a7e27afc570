"""Where our folder of the version 2 tree is."""

from pathlib import Path

import pytest

from worker.spawner.delegation import origin


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("/t", "/t"),
        ("/t/system.slice/a.service", "/t/system.slice/a.service"),
        ("/t/a.service/agentd-1/server", "/t/a.service"),
        ("/t/a.service/agentd-1/spawner", "/t/a.service"),
        ("/t/a.service/agentd-2/server", "/t/a.service/agentd-2/server"),
    ],
)
def test_a_successor_finds_the_folder_of_its_predecessor(own: str, expected: str) -> None:
    assert origin(Path(own), "agentd-1") == Path(expected)
