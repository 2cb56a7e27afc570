"""The server's own log and the workers': readers that stop or go, workers that plant, flood and steer."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Agentd
from tests.harness.graphs import ECHO, own, reaching
from tests.harness.server import PATIENCE
from tests.harness.witness import Witness
from worker.spawn import instance_of

pytestmark = pytest.mark.own_interpreter

LONG_PATH = "/" + "x" * 4000  # it stands in the event of its request
REQUESTS = 600  # more than pipe, reader's buffer and queue hold


def beast(code: str, folder: Path, name: str = "beast") -> dict[str, Any]:
    """A foreign worker that runs this shell code in its channel's folder, tells that it has, and stays."""
    script = f'cd "$AGENTD_CHANNEL_FOLDER"; {code}; echo "done $$" > {folder}/witness; exec sleep 1000'
    return {"name": name, "graph": {"nodes": []}, "agentd": {"command": ["sh", "-c", script], **reaching(folder)}}


async def ping_quickly(agentd: Agentd, channel: str) -> None:
    async with asyncio.timeout(PATIENCE / 4):
        assert (await agentd.post("/ping", channel_name=channel))["code"] == "0"


# ---------------------------------------------------------------------- the server's own


async def test_a_reader_that_stops_holds_nothing_up_and_is_told_what_it_missed(agentd: Agentd) -> None:
    await agentd.start(graphs=[ECHO])
    await agentd.begin("c")
    assert agentd._reader is not None
    assert agentd.process is not None
    agentd._reader.cancel()
    for _ in range(REQUESTS):
        assert (await agentd.get(LONG_PATH))["status"] == 404
    await ping_quickly(agentd, "c")
    await agentd.begin("d")
    before = len(agentd.events)
    agentd._reader = asyncio.create_task(agentd._read(agentd.process))
    dropped = await agentd.event("log.dropped", after=before)
    assert dropped["level"] == "warning"
    shown = sum(event.get("path") == LONG_PATH for event in agentd.events[before:])
    assert 0 < dropped["lines"] <= REQUESTS + 10
    assert shown + dropped["lines"] >= REQUESTS
    assert (await agentd.end("d"))["code"] == "0"
    assert (await agentd.gone("d"))["cause"] == "stopped"
    assert await agentd.stop() == 0


async def test_a_reader_that_is_gone_is_not_missed(agentd: Agentd) -> None:
    await agentd.start(graphs=[ECHO])
    await agentd.begin("c")
    assert agentd._reader is not None
    assert agentd.process is not None
    agentd._reader.cancel()
    agentd._reader = None
    transport = agentd.process._transport.get_pipe_transport(2)
    assert transport is not None
    transport.close()
    await asyncio.sleep(0)
    for number in range(20):
        assert (await agentd.get(f"/nothing/{number}"))["status"] == 404
    await agentd.begin("d")
    assert (await agentd.end("d"))["code"] == "0"
    await ping_quickly(agentd, "c")
    assert await agentd.stop() == 0


async def test_the_last_lines_are_written(agentd: Agentd) -> None:
    await agentd.start(graphs=[ECHO])
    await asyncio.gather(*(agentd.begin(f"c{number}") for number in range(5)))
    assert await agentd.stop() == 0
    names = [event["event"] for event in agentd.events]
    assert names.count("channel.gone") == 5
    assert names[-1] == "server.stopped"


FRAMES = (
    f"{sys.executable} -c '"
    """
import os
up = os.open("up", os.O_WRONLY)
def write(data):
    while data:
        data = data[os.write(up, data):]
write(b"\\n" + b"{\\"t\\":\\"reset\\",\\"v\\":1,\\"epoch\\":1,\\"last\\":0}\\n")
frame = b"{\\"t\\":\\"state\\",\\"n\\":%d,\\"node\\":\\"\\\\u001b[2J\\",\\"error\\":\\"" + b"e" * 2000 + b"\\"}\\n"
for number in range(2, 6000, 2):
    write(frame % number)
'"""
)


async def test_frames_do_not_flood_the_servers_log(agentd: Agentd, witness: Witness) -> None:
    """Half of the frames are missing, and each one tells of an error: 6000 events, were they all told."""
    await agentd.start(graphs=[ECHO, beast(FRAMES, agentd.folder)], AGENTD_WORKER_SETTLE_SECONDS="0")
    await agentd.begin("bystander")
    await agentd.begin("c", "beast")
    await witness.hears("done")
    await ping_quickly(agentd, "bystander")
    assert (await agentd.end("c"))["code"] == "0"
    gone = await agentd.gone("c")
    caused = [event for event in agentd.events if event["event"] in {"channel.frames_lost", "channel.node_error"}]
    assert 5 <= len(caused) <= 5 + gone["age_ms"] / 1000 + 1
    assert all(len(json.dumps(event)) < 1500 for event in caused)


# ---------------------------------------------------------------------- the channel's folder


PLANT = "mkfifo record.json record.json.new; ln -s ../../../victim r"


async def test_what_a_worker_plants_in_its_folder_freezes_nothing(agentd: Agentd, witness: Witness) -> None:
    (agentd.folder / "victim").write_text("precious")
    code = f"{PLANT}; mkdir -p a/b; chmod 0 a/b; chmod 0 a"
    await agentd.start(graphs=[ECHO, beast(code, agentd.folder)], AGENTD_WORKER_SETTLE_SECONDS="0")
    await agentd.begin("bystander")
    await agentd.begin("c", "beast")
    await witness.hears("done")
    await ping_quickly(agentd, "bystander")
    channel_id = (await agentd.channel("c"))["id"]
    record = agentd.state_dir / "records" / f"{channel_id}.json"
    assert json.loads(record.read_bytes())["channel"] == "c"
    assert (await agentd.end("c"))["code"] == "0"
    await agentd.gone("c")
    async with asyncio.timeout(PATIENCE):
        while record.exists():  # until the ledger has the end
            await asyncio.sleep(0.02)
    assert not (agentd.state_dir / "ch" / channel_id).exists()
    assert (agentd.folder / "victim").read_text() == "precious"
    assert [event for event in agentd.events if event["event"] == "channel.folder_left"] == []


async def test_a_folder_of_any_kind_does_not_hold_up_the_next_server(
    agentd: Agentd, successor: Agentd, witness: Witness
) -> None:
    kinds = {
        "closed": "chmod 0 .",
        "file": 'cd ..; rm -r "$AGENTD_CHANNEL_FOLDER"; touch "$AGENTD_CHANNEL_FOLDER"',
        "planted": PLANT,
    }
    graphs = [beast(code, agentd.folder, name) for name, code in kinds.items()]
    await agentd.start(graphs=[ECHO, *graphs], AGENTD_WORKER_SETTLE_SECONDS="0")
    for name in kinds:
        witness.said.clear()
        await agentd.begin(name, name)
        await witness.hears("done")
    logs = agentd.state_dir / "logs"
    mine = logs / f"property-lost-20200101_000000_{instance_of(agentd.state_dir)}-18f-1.json"  # from before a reboot
    other = logs / f"property-lost-20200101_000000_{instance_of(agentd.folder)}-18f-1.json"
    for path in (mine, other):
        path.write_text("token")
    assert len(list(logs.glob("property-*"))) == len(kinds) + 2
    await agentd.kill()
    await successor.start(graphs=[ECHO])
    await successor.begin("c")
    assert not mine.exists()
    lives = {one["name"] for one in (await successor.get("/channels"))["channels"]} - {"c"}
    assert "closed" in lives
    assert "planted" in lives
    for name in lives:
        assert (await successor.end(name))["code"] in {"0", "10002"}
    record = agentd.state_dir / "records" / f"{(await successor.channel('c'))['id']}.json"
    async with asyncio.timeout(PATIENCE):
        while list((agentd.state_dir / "records").iterdir()) != [record]:
            await asyncio.sleep(0.02)
    assert list(logs.glob("property-*")) == [other]
    left = [path for path in (agentd.state_dir / "ch").iterdir() if path.is_dir()]
    assert [path.name for path in left] == [(await successor.channel("c"))["id"]]


async def test_a_state_folder_that_is_something_else_is_refused(agentd: Agentd) -> None:
    (agentd.state_dir / "letters").mkdir(mode=0o755)
    agentd.state_dir.chmod(0o755)
    with pytest.raises(AssertionError, match=f"state folder {agentd.state_dir} is not empty and not agentd's"):
        await agentd.start(graphs=[ECHO])
    assert await agentd.stop() == 1
    assert os.listdir(agentd.state_dir) == ["letters"]
    assert agentd.state_dir.stat().st_mode & 0o777 == 0o755


async def test_a_channel_s_name_does_not_steer_who_reads_the_output(agentd: Agentd, capfd: Any) -> None:
    await agentd.start(
        graphs=[own("stay", agentd.folder), beast("echo hello", agentd.folder, "talker")], LOG_STDOUT="1"
    )
    await agentd.begin("a\x1b[2J\x9bb", "talker")
    await agentd.end("a\x1b[2J\x9bb")
    await agentd.stop()
    out = capfd.readouterr().out
    assert "[a\\x1b[2J\\x9bb] hello\n" in out
    assert "\x1b" not in out
