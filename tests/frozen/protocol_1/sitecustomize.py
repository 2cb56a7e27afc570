"""Gives an interpreter that finds this folder first the pipe protocol of version 1, as it was published.

Everything else of the worker is as it is now. The two modules beside this one are never changed.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

FROZEN = {"worker.frames": "frames.py", "worker.pipe": "pipe.py"}


class Frozen(MetaPathFinder):
    """Finds the frozen modules before those of today."""

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in FROZEN:
            return None
        return importlib.util.spec_from_file_location(name, Path(__file__).with_name(FROZEN[name]))


sys.meta_path.insert(0, Frozen())
