"""What survives a server that is killed, and that a file has one server at a time."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.store.errors import StoreHeldError
from supervisor.store.store import Store
from tests.harness.records import say

ROOT = Path(__file__).parents[2]

HOLD = """
import asyncio, subprocess, sys
sys.path.insert(0, {root!r})
from supervisor.store.store import Store
async def main():
    store = Store({path!r}, instance="i1")
    await store.open()
    child = subprocess.Popen(["sleep", "60"]) if {child} else None
    print("child", child.pid if child else 0, flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


def holder(path: Path, *, child: bool = False) -> "subprocess.Popen[str]":
    """A process that has the store; it tells the id of its child once it has it."""
    code = HOLD.format(root=str(ROOT), path=str(path), child=child)
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def child_of(process: "subprocess.Popen[str]") -> int:
    """Its child, 0 when it has none; known once it has the store."""
    assert process.stdout is not None
    return next(int(line.split()[1]) for line in process.stdout if line.startswith("child "))


async def test_a_second_server_is_told_who_has_the_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with holder(path) as process:
        await asyncio.to_thread(child_of, process)
        before = path.read_bytes()
        link = tmp_path / "link.db"
        link.symlink_to(path)
        for name in (path, link):
            with pytest.raises(StoreHeldError, match=f"is used by process {process.pid};") as caught:
                await Store(str(name), instance="i2").open()
            assert caught.value.holder == process.pid
        assert path.read_bytes() == before
        process.kill()
        process.wait()
    store = Store(str(path), instance="i2")  # the lock fell with its holder
    await store.open()
    await store.close()


async def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with holder(path, child=True) as process:
        child = await asyncio.to_thread(child_of, process)
        process.kill()
        process.wait()
    store = Store(str(path), instance="i2")
    try:
        await store.open()
        assert Path(f"/proc/{child}").exists()
    finally:
        os.kill(child, 9)
        await store.close()
    async with asyncio.timeout(5):
        while Path(f"/proc/{child}").exists():  # somebody else reaps it
            await asyncio.sleep(0.01)


async def test_the_same_process_cannot_open_it_twice(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first = Store(str(path), instance="i1")
    await first.open()
    with pytest.raises(StoreHeldError, match=f"process {os.getpid()}"):
        await Store(str(path), instance="i1").open()
    await say(first, "q", "a")
    await first.close()
    await first.open()
    await first.close()


async def test_its_files_are_private(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        store = Store(str(tmp_path / "store.db"), instance="i1")
        await store.open()
        await say(store, "q", "a")
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.glob("store.db*")}
        await store.close()
    finally:
        os.umask(umask)
    assert modes == dict.fromkeys(("store.db", "store.db-wal", "store.db-shm", "store.db.lock"), 0o600)


async def test_a_writer_that_is_killed_100_times(tmp_path: Path) -> None:
    script = Path(__file__).with_name("crashes.py")
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", str(script), str(tmp_path / "store.db"), "100"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["told"] > 500
    assert (found["wrong"], found["open"]) == ([], 0)
    assert found["turns"] > 50
