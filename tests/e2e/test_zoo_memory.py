"""Workers that take memory until they are stopped: by the kernel, or by their own limit."""

from pathlib import Path

import pytest

from tests.harness import Agentd
from tests.harness.graphs import ECHO, foreign, own
from tests.harness.witness import Witness
from tests.harness.zoo import SETTINGS, Zoo

KINDS = pytest.mark.parametrize("kind", [own, foreign])
LIMIT = 96 * 1024 * 1024
ADDRESS_SPACE = 512 * 1024 * 1024


async def controllers(agentd: Agentd) -> list[str]:
    return (await agentd.get("/health?details=1"))["data"]["controllers"]


@KINDS
async def test_is_killed_at_its_memory_limit(zoo: Zoo, kind) -> None:
    limits = {"memory_bytes": LIMIT}
    await zoo.open(
        kind("allocate", zoo.agentd.folder, cue=True, limits=limits),
        kind("allocate_in_child", zoo.agentd.folder, name="parent", cue=True, limits=limits),
        kind("die_of_signal", zoo.agentd.folder, name="killed", cue=True, limits=limits),
    )
    if "memory" not in await controllers(zoo.agentd):
        pytest.skip("no memory controller can be used here")
    await zoo.loose()
    zoo.witness.cue()
    event = await zoo.ended()
    assert (event["cause"], event["status"]) == ("out_of_memory", -9)
    assert "memory limit" in event["detail"]

    await zoo.loose("parent")
    zoo.witness.cue()
    event = await zoo.ended("parent")
    if (await zoo.agentd.get("/health?details=1"))["data"]["containment"] == "full":  # the kernel kills all of a leaf
        assert (event["cause"], event["status"]) == ("out_of_memory", -9)
    else:
        assert [text for text, _ in zoo.witness.said][-1] == "child was killed"
        assert (event["cause"], event["status"]) == ("crashed", 7)

    await zoo.loose("killed")
    zoo.witness.cue()
    event = await zoo.ended("killed")
    assert (event["cause"], event["status"]) == ("crashed", -9)


async def test_is_killed_at_its_memory_limit_before_it_is_ready(zoo: Zoo) -> None:
    await zoo.open(own("allocate", zoo.agentd.folder, limits={"memory_bytes": LIMIT}))
    if "memory" not in await controllers(zoo.agentd):
        pytest.skip("no memory controller can be used here")
    answer = await zoo.start()
    assert answer["code"] == "10101"
    assert "memory limit" in answer["detail"]
    assert (await zoo.ended())["cause"] == "out_of_memory"


@KINDS
async def test_without_a_controller_the_address_space_is_bounded(
    agentd: Agentd, witness: Witness, tmp_path: Path, kind
) -> None:
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "import worker.spawner.cgroup\nworker.spawner.cgroup.find_hierarchies = lambda: []\n"
    )
    agentd.add_path(patch)
    await agentd.start(
        graphs=[ECHO, kind("allocate", tmp_path, cue=True, limits={"memory_bytes": ADDRESS_SPACE})], **SETTINGS
    )
    assert await controllers(agentd) == []
    await agentd.begin("beast", "beast")
    witness.cue()
    if kind is own:  # a callback of its event loop failed; the worker itself goes on
        await witness.hears("allocating")
        assert (await agentd.end("beast"))["code"] == "0"
        return
    event = await agentd.gone("beast")
    assert (event["cause"], event["status"]) == ("crashed", 1)
