"""What channels use: memory and CPU of their process trees, by psutil, in a thread."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Sample:
    """One channel's use: resident bytes and processes of its tree, CPU percent of a core since the sample before."""

    rss_bytes: int
    cpu_percent: float
    processes: int


class Monitor:
    """Samples on demand; CPU percent is against the sample before (the first one: over the process's life)."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, float]] = {}
        self._lock = asyncio.Lock()

    async def sample(self, workers: Iterable[tuple[str, int, float]]) -> dict[str, Sample]:
        """Samples by channel id for ``(channel id, worker pid, wall clock of its start)``; ended ones are left out."""
        async with self._lock:
            return await asyncio.to_thread(self._sample, list(workers))

    def _sample(self, workers: list[tuple[str, int, float]]) -> dict[str, Sample]:
        now = time.monotonic()
        wall = time.time()
        used: dict[int, tuple[int, float]] = {}
        below: dict[int, list[int]] = {}
        for process in psutil.process_iter(["pid", "ppid", "memory_info", "cpu_times"]):
            info = process.info
            if info["memory_info"] is None or info["cpu_times"] is None:
                continue
            used[info["pid"]] = (info["memory_info"].rss, info["cpu_times"].user + info["cpu_times"].system)
            below.setdefault(info["ppid"], []).append(info["pid"])
        samples: dict[str, Sample] = {}
        for channel_id, pid, created_at in workers:
            tree, rest = [], [pid]
            while rest:
                one = rest.pop()
                if one in used:
                    tree.append(one)
                    rest.extend(below.get(one, ()))
            if not tree:
                continue
            seconds = sum(used[one][1] for one in tree)
            before_seconds, before = self._before.get(channel_id, (0.0, now - max(wall - created_at, 0.001)))
            percent = 100 * max(0.0, seconds - before_seconds) / max(now - before, 0.001)
            samples[channel_id] = Sample(sum(used[one][0] for one in tree), round(percent, 1), len(tree))
            self._before[channel_id] = (seconds, now)
        live = {channel_id for channel_id, _, _ in workers}
        for channel_id in self._before.keys() - live:
            del self._before[channel_id]
        return samples
