"""Bubblewrap around a worker: namespaces of its own for users, processes, shared memory and host name, and few files.

What the worker sees is what it is granted, mounted in an empty root, with a /proc, a /dev and a /tmp of its own.
Inside, `worker.spawner.inside` puts it under the rest of its isolation, which could not come first: under Landlock
nothing is mounted any more.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Final

from worker.spawn import Isolation
from worker.spawner.landlock import LIST, READ, WRITE, WRITE_FILE
from worker.spawner.places import Grant, Places, base_of, granted, source_root

PROGRAM: Final = "bwrap"
TRY_SECONDS: Final = 5.0
NAMESPACES: Final = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
# What each worker has: all that a machine, or the filter of a unit or a container, may refuse, so it is what is tried.
ALWAYS: Final = (*NAMESPACES, "--die-with-parent", "--cap-drop", "ALL", "--hostname", "worker")
# Made anew inside, with what a worker may do there.
OWN: Final = (Grant("/proc", READ), Grant("/dev", WRITE), Grant("/tmp", WRITE))  # noqa: S108 - the worker's own
COARSE: Final = ("/etc", "/sys")


def trouble() -> str:
    """Why bubblewrap cannot be used here; "" when it can, which is found out by trying."""
    program = shutil.which(PROGRAM)
    if program is None:
        return f"{PROGRAM} is not installed"
    files = ("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp")  # noqa: S108 - its own
    command = [program, *ALWAYS, "--unshare-net", *files, "true"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRY_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{PROGRAM}: {error}"
    said = done.stderr.decode(errors="replace").strip()
    return "" if done.returncode == 0 else f"{said or PROGRAM} (status {done.returncode})"


def wrapped(
    isolation: Isolation, folder: str, base: Places, cwd: str, command: Sequence[str], errors: int
) -> list[str]:
    """A command line that runs `command` under bubblewrap, in `cwd`; what goes wrong inside is written to `errors`.

    It holds descriptors that exec must leave open, as `errors`. Raises FileNotFoundError when bubblewrap is gone.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise FileNotFoundError(2, f"{PROGRAM} is not installed any more")
    links = [*base.links, *_named((folder, *isolation.read, *isolation.write))]
    folder = os.path.realpath(folder)
    own = tuple(grant.path for grant in OWN)
    inside = tuple(f"{path}/" for path in own[:2])  # below /tmp may be anything
    base_grants = (g for g in base_of(isolation, base) if g.path not in own and not g.path.startswith(inside))
    grants = [*base_grants, *granted(isolation, folder, base)]
    options = [*ALWAYS]
    if not isolation.network:
        options.append("--unshare-net")
    options += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", own[2]]
    writable = {grant.path for grant in grants if grant.access & WRITE_FILE}
    whole = tuple(f"{grant.path}/" for grant in grants if grant.access != LIST)  # in these an alias is there already
    aliases = [
        (real, Grant(name, WRITE if real in writable else READ))
        for name, real in dict.fromkeys(links)
        if not name.startswith(whole)
    ]
    options += _mounts([*((grant.path, grant) for grant in sorted(grants)), *aliases])
    options += ["--chdir", folder]
    described = {
        "isolation": asdict(replace(isolation, read=(), write=(), hidden=(), fixed=())),
        "grants": [*grants, *(grant for _, grant in aliases), *OWN],
        "folder": folder,
        "cwd": cwd,
        "errors": errors,
    }
    mounts = _memory("\0".join(options).encode() + b"\0")
    description = _memory(json.dumps(described).encode())
    # Without site-packages and the environment's modules: it only has to be quick.
    launcher = [sys.executable, "-I", "-S", f"{source_root()}/worker/spawner/inside.py", str(description)]
    return [program, "--args", str(mounts), "--", *launcher, *command]


def _named(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What was named by another name than its real one."""
    for path in paths:
        real = os.path.realpath(path)
        if real != path:
            yield path, real


def _mounts(places: Sequence[tuple[str, Grant]]) -> Iterator[str]:
    """What lies at a real name, mounted at a grant's; those below others come later and cover them.

    The fewer the quicker: of COARSE folders all is mounted, and Landlock picks what is granted.
    """
    done = set()
    for real, (name, access) in places:
        coarse = next((folder for folder in COARSE if name.startswith(f"{folder}/")), None)
        if coarse is not None:
            if coarse not in done:
                yield from ("--ro-bind", coarse, coarse)
            done.add(coarse)
        elif access == LIST:
            yield from ("--dir", name)
        elif name != real and name.count("/") == 1 and os.path.islink(name):
            yield from ("--symlink", os.readlink(name), name)
        elif os.path.exists(real):
            bind = "--dev-bind" if name.startswith("/dev/") else "--bind" if access & WRITE_FILE else "--ro-bind"
            yield from (bind, real, name)


def _memory(data: bytes) -> int:
    """A descriptor that an exec leaves open, to read this from."""
    fd = os.memfd_create("agentd-bwrap", 0)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
