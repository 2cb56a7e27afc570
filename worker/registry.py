"""Where add-ons come from: the built-in folder and the entry points of installed packages.

An add-on is found by the name that a node's ``addon`` holds. Only what a graph needs is imported, so an add-on that
cannot be imported breaks the graphs that name it and no others.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from worker.addons import BUILT_IN
from worker.node import Node
from worker.plan import StartError, invalid

GROUP: Final = "agentd.addons"


@functools.cache
def installed() -> Mapping[str, tuple[EntryPoint, ...]]:
    """The entry points of all installed packages, by add-on name. Looked up once: it reads every package's metadata."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def preload_addons() -> None:
    """Import the built-in add-ons and look up the installed ones, in the zygote, for all its workers."""
    installed()
    for name, reference in BUILT_IN.items():
        _load(EntryPoint(name, reference, GROUP))


@dataclass(frozen=True, slots=True)
class Loaded:
    """The classes of the add-ons that were found, by name, and the sorted names of those that are not installed."""

    classes: Mapping[str, type[Node]]
    missing: tuple[str, ...]


class Registry:
    """Finds add-ons: first in `extra`, then among the built-in ones, then among the installed packages."""

    def __init__(self, extra: Iterable[EntryPoint] = ()) -> None:
        self._extra = {entry.name: entry for entry in extra}

    def load(self, names: Iterable[str], *, allow_missing: bool = False) -> Loaded:
        """Import the add-ons of these names.

        Raises StartError: addons_missing with all missing names, unless they are allowed; graph_invalid for an add-on
        that cannot be imported, is no subclass of `Node`, or that two packages claim.
        """
        entries = {name: self._locate(name) for name in sorted(set(names))}
        missing = tuple(name for name, found in entries.items() if not found)
        if missing and not allow_missing:
            raise StartError("addons_missing", f"not installed: {', '.join(missing)}", missing)
        return Loaded({name: _load(*found) for name, found in entries.items() if found}, missing)

    def _locate(self, name: str) -> tuple[EntryPoint, ...]:
        if name in self._extra:
            return (self._extra[name],)
        if name in BUILT_IN:
            return (EntryPoint(name, BUILT_IN[name], GROUP),)
        return installed().get(name, ())


def _load(entry: EntryPoint, *others: EntryPoint) -> type[Node]:
    if others:
        claims = ", ".join(sorted(f"{claim.value} ({_package(claim)})" for claim in (entry, *others)))
        raise invalid(f"the add-on {entry.name!r} is claimed more than once: {claims}")
    try:
        loaded = entry.load()
    except Exception as error:  # whatever the module does when it is imported
        raise invalid(
            f"the add-on {entry.name!r} ({entry.value}, {_package(entry)}) cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, type) or not issubclass(loaded, Node):
        raise invalid(
            f"the add-on {entry.name!r} ({entry.value}, {_package(entry)}) is no subclass of worker.agent.Node"
        )
    return loaded


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "agentd"
