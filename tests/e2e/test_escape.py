"""Workers that leave their cgroup, which one of the same user can: the channel's end finds them all the same."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Agentd
from tests.harness.witness import Witness
from tests.harness.zoo import Zoo

PROGRAM = '''
"""Leave the cgroup in one of several ways, say so, and stay for ever."""
import os, signal, sys
from worker.spawner.cgroup import find_hierarchies

kind, folder = sys.argv[1:]
os.environ.clear()

def say(text):
    fd = os.open(folder + "/witness", os.O_WRONLY)
    os.write(fd, f"{text} {os.getpid()}\\n".encode())
    os.close(fd)

def leave():
    own = next(tree.own for tree in find_hierarchies() if not tree.controllers)
    place = own.parent.parent  # from our leaf, in agentd-INSTANCE, in what that was made in
    if own.parent.name.startswith("agentd-"):
        (place / "cgroup.procs").write_text("0")

def stay(text):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(text)
    while True:
        signal.pause()

def child(act):
    if os.fork() == 0:
        act()

def bare():
    os.setsid()
    os.execve("/bin/sh", ["sh", "-c", 'trap "" TERM; echo "escaped $$" > "$1"; exec sleep 1000', "sh",
        folder + "/witness"], {"PATH": os.defpath})

def grandchild():
    child(lambda: (os.setsid(), leave(), stay("escaped")))
    os._exit(0)

if kind == "itself":
    leave()
    stay("escaped")
elif kind == "child":
    child(lambda: (leave(), stay("escaped")))
elif kind == "nest":  # what has left has children of its own, and is no orphan
    child(lambda: (leave(), child(lambda: (os.setsid(), child(bare), stay("nested"))), stay("nesting")))
elif kind == "daemon":
    child(grandchild)
    os.wait()
elif kind == "ends":
    child(lambda: (leave(), bare()))
    with open(folder + "/cue") as cue:
        cue.read(1)
    sys.exit(3)
stay("here")
'''
WORDS = {"itself": ["escaped"], "child": ["here"], "nest": ["here", "nesting", "nested"], "daemon": ["here"]}
KINDS = pytest.mark.parametrize("kind", WORDS)


def escaping(kind: str, folder: Path) -> dict[str, Any]:
    program = folder / "escape.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), kind, str(folder)]
    # Confined it could not get out of its cgroup in the first place (test_confined).
    return {"name": kind, "graph": {"nodes": []}, "agentd": {"command": command, "isolation": "basic"}}


async def let_loose(kind: str, agentd: Agentd, witness: Witness) -> None:
    witness.said.clear()
    await agentd.begin(kind, kind)
    for word in {"escaped", *WORDS[kind]}:
        await witness.hears(word)


@KINDS
async def test_a_stop_ends_what_has_left_its_cgroup(zoo: Zoo, kind: str) -> None:
    await zoo.open(escaping(kind, zoo.agentd.folder))
    await let_loose(kind, zoo.agentd, zoo.witness)
    event = await zoo.stop(kind)
    assert event["processes"] == event["killed"] == len(zoo.witness.seen)


@KINDS
async def test_a_kill_ends_what_has_left_its_cgroup(zoo: Zoo, kind: str) -> None:
    await zoo.open(escaping(kind, zoo.agentd.folder))
    await let_loose(kind, zoo.agentd, zoo.witness)
    answer = await zoo.agentd.request("DELETE", f"/channels/{kind}?kill=1")
    receipt = answer["receipt"]
    assert (receipt["processes"], receipt["killed"], receipt["left"]) == (*[len(zoo.witness.seen)] * 2, 0)
    await zoo.ended(kind)


async def test_a_worker_that_ends_leaves_nobody_outside(zoo: Zoo) -> None:
    await zoo.open(escaping("ends", zoo.agentd.folder))
    await zoo.loose("ends")
    await zoo.witness.hears("escaped")
    zoo.witness.cue()
    event = await zoo.ended("ends")
    assert (event["status"], event["killed"]) == (3, 1)


@pytest.mark.parametrize("containment", ["auto", "sweep"])
async def test_the_shutdown_of_the_server_leaves_nobody_outside(
    agentd: Agentd, witness: Witness, containment: str
) -> None:
    await agentd.start(graphs=[escaping(kind, agentd.folder) for kind in WORDS], AGENTD_CONTAINMENT=containment)
    for kind in WORDS:
        await let_loose(kind, agentd, witness)
    assert await agentd.stop() == 0
    assert witness.alive() == []
