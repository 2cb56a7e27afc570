"""Add-ons that only benchmarks use, found by their entry point when this folder is on PYTHONPATH."""

import os
import signal
import time

from worker.agent import Node

CHILDREN = 100


class Tree(Node):
    """A worker with 100 children, all of them deaf to SIGTERM; it never ends by itself."""

    async def start(self) -> None:
        """Fork the children."""
        for _ in range(CHILDREN):
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(3600)
                os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    async def stop(self) -> None:
        """Hold up the loop: not even the stop frame ends this one."""
        time.sleep(3600)
