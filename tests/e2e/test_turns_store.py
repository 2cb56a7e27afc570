"""A store that is full, read-only, held by another or gone: new turns are refused, what runs goes on, and it passes."""

import asyncio
import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import ZOO
from tests.harness import Agentd, leaks
from tests.harness.postgres import Postgres, PostgresMissingError
from tests.harness.server import PATIENCE
from tests.harness.talk import TALKER, ask, body, events, faults, in_channel, stream, text_of, turn_rows

DISK = 8 * 1024 * 1024


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of this test's own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={DISK},mode=0700", "none", str(folder))
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def fill(disk: Path) -> Path:
    """Take all the room there is."""
    path = disk / "filling"
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return path


async def begin(agentd: Agentd, disk: Path, **settings: str) -> None:
    await agentd.start(graphs=[TALKER], AGENTD_STORE=str(disk / "store.db"), **settings)


async def refused(agentd: Agentd, **more: Any) -> dict[str, Any]:
    """Ask until it is refused, which must be soon; every answer is good or the right refusal."""
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
        while True:
            async with session.post(agentd.address + "/turns", json=body(["say", "x" * 20_000], **more)) as response:
                answer = await response.json()
                if response.status != 200:
                    assert response.status == 503, answer
                    assert int(response.headers["Retry-After"]) > 0
                    assert answer["error"]["cause"] == "store_unavailable"
                    return answer


async def accepted(agentd: Agentd, **more: Any) -> dict[str, Any]:
    """Ask until it is answered, which must be soon."""
    async with asyncio.timeout(PATIENCE):
        while (answer := await ask(agentd, ["say", "well"], **more))["status"] != 200:
            assert (answer["status"], answer["error"]["cause"]) == (503, "store_unavailable"), answer
            await asyncio.sleep(0.05)
    return answer


async def unharmed(agentd: Agentd, script: list[list[Any]], spoil: Any, mend: Any) -> None:
    """A channel with a turn that runs, while the store is spoilt and mended."""
    await agentd.begin("lobby", "talker")
    lives = [event for event in agentd.events if event.get("event") == "channel.ready"]
    async with stream(agentd, in_channel(*script), "/channels/lobby/turns") as running:
        await running.until("text")
        spoil()
        first = await refused(agentd)
        assert first["error"]["detail"]
        await refused(agentd, session="s")
        answer = await agentd.post("/channels/lobby/turns", in_channel(["say", "x"]))
        assert answer["status"] in (409, 503)
        for _ in range(20):
            assert (await agentd.post("/ping", channel_name="lobby"))["code"] == "0"
        assert (await running.until("text"))["text"]
        assert (await agentd.channel("lobby"))["state"] == "running"
        mend()
        await accepted(agentd, session="s")
        began = asyncio.get_running_loop().time()
        found = await running.all()
        assert asyncio.get_running_loop().time() - began < PATIENCE
        assert found[-1]["event"] == "final"
    assert [event for event in agentd.events if event.get("event") == "channel.ready"][: len(lives)] == lives
    answer = await agentd.post("/channels/lobby/turns", in_channel(["history", None]))
    assert answer["status"] == 200


LONG: list[list[Any]] = [["paced", [60, 0.05]]]


async def test_a_full_disk(disk: Path, agentd: Agentd) -> None:
    await begin(agentd, disk, AGENTD_SESSION_WAIT_SECONDS="0.2")
    filling: list[Path] = []
    await unharmed(agentd, LONG, lambda: filling.append(fill(disk)), lambda: filling.pop().unlink())
    assert await agentd.stop() == 0
    assert all(row["ended_at"] is not None for row in turn_rows(agentd, disk / "store.db").values())


async def test_a_store_that_becomes_read_only(disk: Path, agentd: Agentd, monkeypatch: pytest.MonkeyPatch) -> None:
    """No disk can be made read-only while files on it are open for writing; one that is full and sealed is as bad."""
    await begin(agentd, disk, AGENTD_SESSION_WAIT_SECONDS="0.2")
    assert agentd.process is not None
    limits = resource.prlimit(agentd.process.pid, resource.RLIMIT_FSIZE)
    await unharmed(
        agentd,
        LONG,
        lambda: resource.prlimit(agentd.process.pid, resource.RLIMIT_FSIZE, (0, limits[1])),
        lambda: resource.prlimit(agentd.process.pid, resource.RLIMIT_FSIZE, limits),
    )


class Ended:
    def __init__(self, returncode: int | None, stderr: bytes) -> None:
        self.returncode, self.stderr = returncode, stderr


async def serve(agentd: Agentd, store: Path | str, state: str = "other") -> Ended:
    """A server that is not expected to live: its status and what it said."""
    folder = agentd.folder / state
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(agentd.folder),
        "TMPDIR": os.environ["TMPDIR"],
        leaks.MARK: os.environ[leaks.MARK],
        "PYTHONPATH": str(ZOO),
        "AGENTD_STATE_DIR": str(folder),
        "AGENTD_LISTEN": "127.0.0.1:0",
        "AGENTD_STORE": str(store),
        "AGENTD_LOG_FORMAT": "json",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "supervisor", "serve",
        cwd=agentd.folder, env=environment, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode, said)


async def test_a_second_server_on_the_same_store_fails_and_harms_no_one(agentd: Agentd, tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    await agentd.start(graphs=[TALKER], AGENTD_STORE=str(store))
    async with stream(agentd, body(["say", "on"], ["paced", [10, 0.05]], session="s")) as running:
        await running.until("text")
        second = await serve(agentd, store)
        found = await running.all()
    assert second.returncode == 1
    assert str(store).encode() in second.stderr
    assert b"Traceback" not in second.stderr, second.stderr.decode()
    assert found[-1]["event"] == "final"
    assert (await ask(agentd, ["history", None], session="s"))["status"] == 200
    assert faults(agentd) == []


async def test_a_store_that_is_full_when_the_server_starts(disk: Path, agentd: Agentd) -> None:
    filling = fill(disk)
    process = await serve(agentd, disk / "store.db")
    assert process.returncode == 1
    assert b"store.db" in process.stderr
    assert b"Traceback" not in process.stderr
    filling.unlink()
    await begin(agentd, disk)
    assert (await ask(agentd, ["say", "x"], session="s"))["status"] == 200


def seal(agentd: Agentd) -> None:
    assert agentd.process is not None
    limits = resource.prlimit(agentd.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(agentd.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))


async def test_a_session_whose_turn_was_refused_is_free_at_once(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER])
    await ask(agentd, ["say", "x"], session="s")
    seal(agentd)
    loop = asyncio.get_running_loop()
    for _ in range(6):
        began = loop.time()
        answer = await ask(agentd, ["say", "x"], session="s")
        assert (answer["status"], answer["error"]["cause"]) == (503, "store_unavailable")
        assert loop.time() - began < 1.0


async def test_the_end_of_a_turn_that_runs_is_not_held_back(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER])
    await ask(agentd, ["say", "x"], session="s")
    async with stream(agentd, body(["say", "on"], ["paced", [8, 0.5]], session="s")) as running:
        await running.until("text")
        seal(agentd)
        for number in range(5):
            await ask(agentd, ["say", "x"], session=f"other{number}")
        for _ in range(8):
            await running.until("text")
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await running.next())["event"] == "final"
        assert loop.time() - began < 1.5


async def test_turns_that_were_refused_take_no_room(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER])
    await ask(agentd, ["say", "x"], session="s")
    seal(agentd)
    for number in range(30):
        assert (await ask(agentd, ["say", "x"], session=f"o{number}"))["status"] == 503
    details = (await agentd.get("/health?details=1"))["data"]
    assert details["store"]["waiting"] < 45, "each has a worker, which is in the ledger, and nothing besides"


async def test_a_stream_has_no_head_before_its_turn_is_on_record(agentd: Agentd) -> None:
    """With a store that takes no writes for longer than the head of a stream waits for a worker."""
    await agentd.start(graphs=[TALKER], AGENTD_DEFAULT_GRAPH="talker")
    asked = [("/process", [{"role": "user", "content": "?"}]), ("/v1/responses", "?")]
    with contextlib.closing(sqlite3.connect(agentd.state_dir / "store.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answers = await asyncio.gather(*(agentd.post(path, {"input": value, "stream": True}) for path, value in asked))
        other.execute("ROLLBACK")
    assert [answer["status"] for answer in answers] == [503, 503], answers


# ---------------------------------------------------------------------- PostgreSQL


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server of the test's own: what is halted and resumed within a test is a child of that test."""
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


@pytest.fixture
async def database(postgres: Postgres) -> str:
    return postgres.url(await postgres.new_database())


@pytest.fixture
async def on_postgres(database: str, agentd: Agentd) -> Agentd:
    return await agentd.start(graphs=[TALKER], AGENTD_STORE=database)


async def test_sessions_on_postgresql_outlive_worker_and_server(on_postgres: Agentd, database: str) -> None:
    server = on_postgres
    await ask(server, ["remember", {"name": "Ada\0"}], session="s")
    await server.stop()
    server.events.clear()
    await server.start(AGENTD_STORE=database)
    answer = await ask(server, ["recall", "name"], ["say", " / "], ["history", None], session="s")
    assert answer["text"] == "Ada\0 / user: ? | assistant: remembered"
    assert [life["cause"] for life in (await server.get("/ledger?open=false"))["lives"]] == ["server_stopped"]
    assert text_of(await events(server, ["count", 3])) == "0 1 2 "


async def test_postgresql_that_goes_and_comes_back(on_postgres: Agentd, postgres: Postgres) -> None:
    server = on_postgres
    await server.begin("lobby", "talker")
    async with stream(server, in_channel(["paced", [60, 0.05]]), "/channels/lobby/turns") as running:
        await running.until("text")
        postgres.halt()
        await refused(server)
        for _ in range(20):
            assert (await server.post("/ping", channel_name="lobby"))["code"] == "0"
        await running.until("text")
        postgres.resume()
        await accepted(server, session="s")
        assert (await running.all())[-1]["event"] == "final"
