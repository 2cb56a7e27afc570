"""``python -m worker.alone CONFIG_FD LIFELINE_FD [PRELOAD...]``: one worker in an interpreter of its own.

Where a worker cannot be forked from a zygote (inside bubblewrap) the spawner starts this, its set-up already done.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence

from worker import main as worker_main
from worker.registry import preload_addons
from worker.zygote import preload

SETUP_FAILED = 126


def main(arguments: Sequence[str]) -> int:
    """Read the configuration, load what a zygote would have, and be the worker; the exit status."""
    config, lifeline = map(int, arguments[:2])
    with os.fdopen(config, "rb") as file:
        file.seek(0)
        document = json.load(file)
    os.set_inheritable(lifeline, False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        preload_addons()
        preload(arguments[2:])
    except RuntimeError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the channel's log
        return SETUP_FAILED
    document["lifeline"] = lifeline
    return worker_main.run(document)


if __name__ == "__main__":
    status = 1
    try:
        status = main(sys.argv[1:])
    except Exception:  # noqa: BLE001 - as in a forked worker: said where its output goes, then its end
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
