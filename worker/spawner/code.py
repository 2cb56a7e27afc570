"""Which code a zygote started now would load: it differs once agentd or an add-on was installed anew."""

import os
import sys
from collections.abc import Collection, Iterator
from glob import escape, glob
from pathlib import Path
from typing import Final

from worker.spawner.places import source_root

DISTRIBUTIONS: Final = (".dist-info", ".egg-info")

Stamp = tuple[str, int, int]  # path, nanoseconds of its last change, size


def code(python: str) -> frozenset[Stamp]:
    """The stamps of our own sources, and of every distribution that is installed where Python looks for modules.

    That is this interpreter, and `python`, when it belongs to a virtual environment of its own.
    """
    environment = Path(python).parent.parent
    theirs = glob(f"{escape(str(environment))}/lib/python3*/site-packages")
    return frozenset((*_sources(), *_distributions({*sys.path, *theirs})))


def _sources() -> Iterator[Stamp]:
    for folder, _, names in os.walk(f"{source_root()}/worker"):
        for name in names:
            if name.endswith(".py"):
                yield from _stamp(f"{folder}/{name}")


def _distributions(folders: Collection[str]) -> Iterator[Stamp]:
    for folder in filter(None, folders):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            if name.endswith(DISTRIBUTIONS):
                yield from _stamp(f"{folder}/{name}")


def _stamp(path: str) -> Iterator[Stamp]:
    try:
        status = os.stat(path)
    except OSError:  # it went while we looked: it is not there
        return
    yield path, status.st_mtime_ns, status.st_size
