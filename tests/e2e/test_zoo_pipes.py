"""Workers that write what they should not, or too much of it."""

import asyncio
from pathlib import Path

import pytest

from tests.harness.graphs import foreign, own
from tests.harness.zoo import Zoo

KINDS = pytest.mark.parametrize("kind", [own, foreign])
MEGABYTE = 1024 * 1024


async def test_writes_what_are_no_frames(zoo: Zoo) -> None:
    """A few bad lines are told and lived through; half a frame takes what follows on its line with it."""
    await zoo.open(*(own(beast, zoo.agentd.folder, name=beast, cue=True) for beast in ("garble", "tear")))
    await zoo.loose("garble")
    zoo.witness.cue()
    await zoo.witness.hears("garbled")
    await zoo.agentd.event("channel.bad_frame", lambda e: e["channel"] == "garble")
    assert (await zoo.stop("garble"))["cause"] == "stopped"

    await zoo.loose("tear")
    zoo.witness.cue()
    await zoo.witness.hears("torn")
    await zoo.agentd.event("channel.bad_frame", lambda e: e["channel"] == "tear")
    event = await zoo.stop("tear")
    assert (event["cause"], event["killed"]) == ("stopped", 0)
    assert (await zoo.agentd.event("channel.frames_lost", lambda e: e["channel"] == "tear"))["lost"] == 1


async def test_writes_nothing_but_garbage(zoo: Zoo) -> None:
    await zoo.open(own("garble_on", zoo.agentd.folder, cue=True))
    await zoo.loose()
    zoo.witness.cue()
    event = await zoo.ended()
    assert event["cause"] == "protocol_violated"
    assert "no frames" in event["detail"]


async def test_what_a_foreign_worker_writes_there_is_nothing_to_us(zoo: Zoo) -> None:
    """It has not answered our resume, so it does not speak the protocol."""
    await zoo.open(*(foreign(beast, zoo.agentd.folder, name=beast, cue=True) for beast in ("garble", "garble_on")))
    for beast, word in (("garble", "garbled"), ("garble_on", "garbling")):
        await zoo.loose(beast)
        zoo.witness.cue()
        await zoo.witness.hears(word)
        assert (await zoo.stop(beast))["cause"] == "stopped"


async def test_writes_nothing_but_garbage_in_its_start(zoo: Zoo) -> None:
    await zoo.open(own("garble_on", zoo.agentd.folder))
    answer = await zoo.start()
    assert (answer["code"], answer["data"]) == ("10101", None)
    assert (await zoo.ended())["cause"] == "protocol_violated"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (own, {"AGENTD_LOG_RATE_BYTES": str(100 * MEGABYTE)}),
        (foreign, {"AGENTD_LOG_RATE_BYTES": str(100 * MEGABYTE)}),
        (foreign, {"AGENTD_LOG_RATE_BYTES": str(100 * MEGABYTE), "LOG_STDOUT": "true"}),
    ],
)
async def test_floods_its_output(zoo: Zoo, kind, settings: dict[str, str]) -> None:
    await zoo.open(kind("flood", zoo.agentd.folder, cue=True), AGENTD_LOG_FILE_BYTES=str(MEGABYTE), **settings)
    await zoo.loose()
    zoo.witness.cue()
    await zoo.witness.hears("flooded")
    assert (await zoo.stop())["cause"] == "stopped"
    logs = list((zoo.agentd.state_dir / "logs").glob("app-beast-*"))
    if "LOG_STDOUT" in settings:
        assert logs == []
        return
    assert len(logs) == 2
    for log in logs:
        data = log.read_bytes()
        assert len(data) <= MEGABYTE
        assert set(data.splitlines()) == {b"x" * 99}
        assert data.endswith(b"\n")


async def test_a_flood_beyond_its_rate_is_slowed_and_can_be_stopped(zoo: Zoo) -> None:
    await zoo.open(foreign("flood", zoo.agentd.folder, cue=True), AGENTD_LOG_RATE_BYTES=str(MEGABYTE))
    await zoo.loose()
    zoo.witness.cue()
    [log] = await _begun(zoo)
    assert (await zoo.stop())["cause"] == "stopped"
    assert zoo.witness.said == []
    assert log.stat().st_size < 50 * MEGABYTE


async def _begun(zoo: Zoo) -> list[Path]:
    async with asyncio.timeout(20):
        while not (logs := list((zoo.agentd.state_dir / "logs").glob("app-beast-*"))):
            await asyncio.sleep(0)
    return logs
