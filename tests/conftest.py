"""Fixtures all tests share; the first of them fails every test that leaves something behind."""

import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from tests.harness import Agentd, leaks, secrets
from tests.harness.nursery import Nursery
from worker.spawn import instance_of

ZOO = Path(__file__).parent / "zoo"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what passed but for a key or a token of a user in its output, the logs of servers in this process too."""
    report = yield
    shown = [title for title, text in report.sections if secrets.leaked(text.encode(errors="replace"))]
    if report.passed and shown:
        report.outcome = "failed"
        report.longrepr = f"a key or a token is in: {', '.join(shown)}"
    return report


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After the test nothing is left: no process, zombie, fd, thread, task, temporary file or cgroup."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv(leaks.MARK, instance_of(tmp_path))
    before = leaks.look()
    yield
    found = leaks.left(before, tmp_path)
    found += [f"temporary file {path}" for path in temporary.iterdir()]
    assert not found, "the test left behind: " + "; ".join(found)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A state folder of this test's own; its processes and cgroups are looked for afterwards."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Nursery]:
    """What servers are forked from; there before any test looks for leaks."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def nursery(request: pytest.FixtureRequest, interpreter: Nursery) -> Nursery | None:
    """Where this test's servers come from; None: each has an interpreter of its own."""
    return None if request.node.get_closest_marker("own_interpreter") else interpreter


@pytest.fixture
async def agentd(state_dir: Path, tmp_path: Path, nursery: Nursery | None) -> AsyncIterator[Agentd]:
    """A real `agentd serve`, not started yet: ``await agentd.start(WORKERS_MAX="5")``; stopped afterwards."""
    server = Agentd(state_dir, tmp_path, extra_path=ZOO, nursery=nursery)
    try:
        yield server
    finally:
        await server.stop()
