"""What channels use: memory and CPU of their process trees, by psutil, in a thread."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Sample:
    """One channel's use: resident bytes and processes of its tree, CPU percent of a core since the sample before."""

    rss_bytes: int
    cpu_percent: float
    processes: int


@dataclass(frozen=True, slots=True)
class _Scan:
    """All processes at one moment: memory and CPU seconds by pid, and the children of each."""

    at: float
    wall: float
    used: dict[int, tuple[int, float]]
    below: dict[int, list[int]]

    def tree(self, pid: int) -> Iterator[int]:
        rest = [pid]
        while rest:
            one = rest.pop()
            if one in self.used:
                yield one
                rest.extend(self.below.get(one, ()))


@dataclass(frozen=True, slots=True)
class _Known:
    """The last sample of a channel, and what the next one is counted from."""

    pid: int
    at: float
    seconds: float
    sample: Sample


class Monitor:
    """Samples on demand; CPU percent is against the sample before (the first one: over the process's life).

    Who asks while processes are being looked at gets what comes out of that: there is one look at a time, also when
    those who asked for it do not wait for it any more.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._scanning: asyncio.Future[_Scan] | None = None

    async def sample(self, workers: Iterable[tuple[str, int, float]]) -> dict[str, Sample]:
        """Samples by channel id for ``(channel id, worker pid, wall clock of its start)``; ended ones are left out."""
        if self._scanning is None or self._scanning.done():
            self._scanning = asyncio.get_running_loop().run_in_executor(None, _look)
        scan = await asyncio.shield(self._scanning)
        samples = {
            channel_id: sample
            for channel_id, pid, created_at in workers
            if (sample := self._sample(scan, channel_id, pid, created_at)) is not None
        }
        for channel_id in [ended for ended, known in self._known.items() if known.pid not in scan.used]:
            del self._known[channel_id]
        return samples

    def _sample(self, scan: _Scan, channel_id: str, pid: int, created_at: float) -> Sample | None:
        known = self._known.get(channel_id)
        if known is not None and known.at >= scan.at:
            return known.sample
        tree = list(scan.tree(pid))
        if not tree:
            return None
        seconds = sum(scan.used[one][1] for one in tree)
        used, elapsed = (
            (seconds, scan.wall - created_at) if known is None else (seconds - known.seconds, scan.at - known.at)
        )
        percent = 100 * max(0.0, used) / max(elapsed, 0.001)
        sample = Sample(sum(scan.used[one][0] for one in tree), round(percent, 1), len(tree))
        self._known[channel_id] = _Known(pid, scan.at, seconds, sample)
        return sample


def _look() -> _Scan:
    scan = _Scan(time.monotonic(), time.time(), {}, {})
    for process in psutil.process_iter(["pid", "ppid", "memory_info", "cpu_times"]):
        info = process.info
        if info["memory_info"] is None or info["cpu_times"] is None:
            continue
        scan.used[info["pid"]] = (info["memory_info"].rss, info["cpu_times"].user + info["cpu_times"].system)
        scan.below.setdefault(info["ppid"], []).append(info["pid"])
    return scan
