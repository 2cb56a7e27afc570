"""Stores on both databases; a PostgreSQL server for the whole session, started before any test looks for leaks."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.store.records import ResponseBegun
from supervisor.store.store import Store
from tests.harness.postgres import Postgres, PostgresMissingError

MakeStore = Callable[..., Awaitable[Store]]


def response(response_id: str, **fields: Any) -> ResponseBegun:
    """A response that has begun."""
    return ResponseBegun(
        **{
            "id": response_id,
            "turn": "turn-1",
            "source": "openai",
            "graph": "friday",
            "user": "ada",
            "session": "s1",
            "created_at": time.time(),
            "status": "in_progress",
            "body": b'{"status":"in_progress"}',
            "input": b'[{"role":"user"}]',
            **fields,
        }
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server; without its binaries the test fails where it has to run, else it is skipped."""
    try:
        server = Postgres()
    except PostgresMissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has to test with PostgreSQL: {error}")
        pytest.skip(str(error))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> Postgres | None:
    """What each test runs with: None is SQLite."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
async def url(server: Postgres | None, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database."""
    if server is None:
        yield str(tmp_path / "store.db")
        return
    name = await server.new_database()
    yield server.url(name)
    await server.drop(name)


@pytest.fixture
async def make(url: str) -> AsyncIterator[MakeStore]:
    """Opens stores: ``await make(url, instance="i1")``; they are closed afterwards, before the database goes."""
    stores: list[Store] = []

    async def open_one(url: str, *, instance: str = "i1", **options: Any) -> Store:
        store = Store(url, instance=instance, **options)
        await store.open()
        stores.append(store)
        return store

    yield open_one
    for store in reversed(stores):
        await store.close()


@pytest.fixture
async def store(make: MakeStore, url: str) -> Store:
    return await make(url)
