"""Run by bubblewrap, inside: ``inside.py DESCRIBED_FD COMMAND [ARGUMENT...]`` confines itself and becomes the command.

It runs as a script, without the packages of this interpreter, since that is quicker.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from worker.spawn import Isolation
from worker.spawner.isolation import Ground
from worker.spawner.linux import PR_SET_NO_NEW_PRIVS, prctl
from worker.spawner.places import Grant, Places

FAILED: Final = 127


def main(described: str, *command: str) -> NoReturn:
    """Never returns."""
    with open(int(described), "rb") as file:
        given: dict[str, Any] = json.load(file)
    errors: int = given["errors"]
    os.set_inheritable(errors, False)
    step = "the isolation inside bubblewrap"
    try:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # bubblewrap itself ignores it, so that its command has a grace
        base = Places(tuple(Grant(path, access) for path, access in given["grants"]), (), (), ())
        Ground(base).confine(Isolation.from_dict(given["isolation"]), given["folder"])
        step = f"folder {given['cwd']!r}"
        os.chdir(given["cwd"])
        step = f"command {command[0]!r}"
        os.execvp(command[0], list(command))  # noqa: S606 - no shell, on purpose
    except BaseException as error:  # noqa: BLE001 - the spawner tells it
        reason = (error.strerror if isinstance(error, OSError) else None) or repr(error)
        os.write(errors, f"{step}: {reason}".encode()[:4096])
    finally:
        os._exit(FAILED)


if __name__ == "__main__":
    main(*sys.argv[1:])
