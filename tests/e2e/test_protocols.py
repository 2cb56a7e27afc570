"""Workers of an earlier version go on under a supervisor of this one: a frozen copy of their half of the protocol."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from supervisor.processes.bundle import prepare_state
from supervisor.processes.launch import environment_of
from tests.conftest import ZOO
from tests.harness import Agentd
from tests.harness.server import PATIENCE
from tests.harness.survivors import follow, pids
from tests.harness.talk import TALKER, in_channel, post, stream

FROZEN = Path(__file__).parents[1] / "frozen" / "protocol_1"
PIECES = 200


@pytest.fixture
async def older(agentd: Agentd) -> AsyncIterator[int]:
    """A spawner whose workers speak version 1; the servers of the test find it. Its number."""
    prepare_state(agentd.state_dir)
    environment = environment_of(os.environ, agentd.state_dir)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (FROZEN, ZOO, Path(__file__).parents[2])))
    reader, writer = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker.spawner", "--state-dir", str(agentd.state_dir), "--ready-fd", str(writer)),
        env={**os.environ, **environment},
        pass_fds=(writer,),
        start_new_session=True,
    )
    os.close(writer)
    try:
        assert await asyncio.to_thread(os.read, reader, 16) == b"ready\n"
        yield process.pid
    finally:
        os.close(reader)
        async with asyncio.timeout(PATIENCE):
            await process.wait()  # the last server ended it


async def test_a_worker_of_version_1_goes_on(agentd: Agentd, older: int, successor: Agentd) -> None:
    await agentd.start(graphs=[TALKER])
    try:
        assert (await agentd.get("/health?details=1"))["data"]["spawner_pid"] == older
        await agentd.begin("t", "talker")
        before = await pids(agentd)
        async with stream(agentd, in_channel(["paced", [PIECES, 0.01]]), "/channels/t/turns") as answer:
            seen = [await answer.next() for _ in range(30)]
            await agentd.kill()
        await successor.start()
        versions = [(await successor.event("channel.resumed"))["version"]]
        assert await pids(successor) == before
        rest = await follow(successor, "t", seen[-1]["place"], turn=seen[0]["turn"])
        assert (rest[-1]["event"], rest[-1]["cause"]) == ("final", "completed")
        told = [event["text"] for event in [*seen, *rest] if event["event"] == "text"]
        if not any(event["event"] == "gap" for event in rest):
            assert told == [f"{n} " for n in range(PIECES)]
        assert len(told) == len(set(told))
        assert told[-1] == f"{PIECES - 1} "
        again = await post(successor, in_channel(["say", "again"]), "/channels/t/turns")
        assert again["text"] == "again"
        assert (await successor.end("t"))["code"] == "0"
        assert versions == [1]
    finally:
        await successor.stop()
