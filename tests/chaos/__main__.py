"""``python -m tests.chaos [--seed N] [--trials N]``: seeded trials, each replayed by its own seed.

Exit status 1 when something did not hold. Needs Linux; as root in namespaces of its own it does all that it can.
"""

import argparse
import asyncio
import ctypes
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.chaos import trial
from tests.chaos.house import House, house_in
from tests.chaos.plan import plan_of
from tests.chaos.strangers import Strangers, strangers
from tests.harness import leaks
from worker.spawn import instance_of
from worker.spawner import sweep
from worker.spawner.linux import PR_SET_CHILD_SUBREAPER

IN_A_HOUSE = 25  # trials, before another one is begun
CONTAINMENTS = ("auto", "sweep")
NAMESPACES = ("unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child")
SHOWN = 20  # events of a server's log, after a failure
INSIDE = "AGENTD_CHAOS_INSIDE"


def main() -> int:
    """Run the trials."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first trial; the others follow it")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--containment", choices=CONTAINMENTS, help="none: both, by turns")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no trial after so long")
    arguments = parser.parse_args()
    if os.geteuid() == 0 and INSIDE not in os.environ and shutil.which(NAMESPACES[0]):
        command = [*NAMESPACES, sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # whatever is left behind comes to us
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    seeds = list(range(arguments.seed, arguments.seed + arguments.trials))
    done, seed, failed, kinds = 0, 0, [], Counter[str]()
    while seeds and time.monotonic() - began < arguments.seconds:
        batch = [seeds.pop(0)]
        while seeds and len(batch) < IN_A_HOUSE and batch[-1] % IN_A_HOUSE:
            batch.append(seeds.pop(0))
        containment = arguments.containment or CONTAINMENTS[(batch[-1] - 1) // IN_A_HOUSE % len(CONTAINMENTS)]
        with tempfile.TemporaryDirectory(prefix="agentd-chaos-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            (folder / "tmp").mkdir()
            os.environ |= {"TMPDIR": str(folder / "tmp"), leaks.MARK: instance_of(folder)}
            try:
                async with strangers() as decoys:
                    async with house_in(folder, containment) as house:
                        while batch and time.monotonic() - began < arguments.seconds:
                            seed = batch.pop(0)
                            kinds.update(fault.kind for fault in plan_of(seed).faults)
                            done += 1
                            if not await _one(seed, house, decoys, containment):
                                failed.append(seed)
                                break  # the next one shall not suffer from it
                        notes = house.notes
                    _say(f"    {house.restarts} servers, {decoys.taken} numbers taken over, {decoys.missed} missed")
                    for note in notes:
                        _say(f"    not done here: {note}")
            except Exception:
                _say(f"VIOLATION at the end of the house of {seed}:\n{traceback.format_exc()}")
                failed.append(seed)
            finally:
                os.environ.pop("TMPDIR")
            if left := await _left(folder):
                failed.append(seed)
                _say(f"VIOLATION after the end of the house of {seed}: left behind: {left}")
            seeds = batch + seeds
    _say(f"{done} trials, {len(failed)} failed {failed or ''}, {time.monotonic() - began:.0f} s")
    _say("    " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
    return 1 if failed else 0


async def _one(seed: int, house: House, decoys: Strangers, containment: str) -> bool:
    plan = plan_of(seed)
    began = time.monotonic()
    try:
        found = await trial.run(plan, house, decoys)
    except Exception:
        found = [f"the trial broke off:\n{traceback.format_exc()}"]
    kinds = " ".join(fault.kind for fault in plan.faults)
    _say(f"{seed} {'FAILED' if found else 'ok'} {time.monotonic() - began:.1f} s: {kinds}")
    if found:
        _say(f"    replay: make chaos SEED={seed} TRIALS=1 (containment {containment})\n    {plan}")
        for one in found:
            _say(f"    VIOLATION {one}")
        events = house.server.events if house.server else []
        for event in [event for event in events if event["event"] not in ("http.request", "audit")][-SHOWN:]:
            _say(f"    log {str(event)[:400]}")
    return not found


async def _left(folder: Path) -> list[str]:
    """What outlived a house. What is a zombie by now has come to us: its status is taken."""
    for _ in range(100):
        for pid in sweep.children(os.getpid()):
            with_status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            if with_status is None:
                continue
        left = [*leaks.processes_of(folder).values(), *(f"child {pid}" for pid in sweep.children(os.getpid()))]
        if not left:
            return []
        await asyncio.sleep(0.05)
    return left


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
