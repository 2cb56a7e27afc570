"""What several tests of workers share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.living import Worker, graph, node

PLAYERS = ("actor", "obedient", "stubborn", "thick", "asker", "shy")


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start a worker that knows the players; without nodes with one actor."""
    started: list[Worker] = []
    addons = {name: f"players:{name.capitalize()}" for name in PLAYERS}

    def play(*nodes: Any, connections: Any = (), **options: Any) -> Worker:
        folder = tmp_path / f"channel{len(started)}"
        folder.mkdir()
        document = graph(*(nodes or [node("a", "actor")]), connections=connections)
        started.append(Worker(folder, document, addons=addons, path=Path(__file__).parent, **options))
        return started[-1]

    yield play
    for worker in started:
        worker.close()
