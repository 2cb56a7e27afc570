"""The levels of isolation: what this machine has for them, and how a newborn process puts itself under one.

``basic`` is what every worker has (`worker.spawner.setup`). ``confined`` adds Landlock, a system call filter and the
end of a root's capabilities; ``namespaced`` adds bubblewrap around all that (`worker.spawner.bwrap`). What a kernel has
not is told in advance (`Abilities`); what it has must work, or there is no worker.
"""

import ctypes
import os
from dataclasses import dataclass
from typing import Any, Final

from worker.spawn import BASIC, CONFINED, LEVELS, NAMESPACED, Isolation
from worker.spawner import landlock, seccomp
from worker.spawner.places import Places, base_of, granted, is_whole

# What a root keeps: its way with files (which Landlock bounds), users and low ports. A user has none to lose.
KEPT_CAPABILITIES: Final = sum(
    1 << number
    for number in (
        0,  # CHOWN
        1,  # DAC_OVERRIDE
        3,  # FOWNER
        4,  # FSETID
        5,  # KILL
        6,  # SETGID
        7,  # SETUID
        10,  # NET_BIND_SERVICE
    )
)
CAPABILITY_VERSION: Final = 0x2008_0522

_Header = ctypes.c_uint32 * 2
_Sets = ctypes.c_uint32 * 6
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What there is on this machine: Landlock's ABI (0: none), system call filters, bubblewrap ("": it works)."""

    landlock: int
    seccomp: bool
    bwrap: str

    def levels(self) -> dict[str, dict[str, Any]]:
        """For each level what a worker that asks for it gets, what is missing of it, and why it is refused. Pure."""
        lacking = list(landlock.missing(self.landlock))
        if not self.seccomp:
            lacking.append("system calls and kinds of sockets cannot be restricted: no seccomp for this machine")
        got = CONFINED if self.landlock and self.seccomp else BASIC
        return {
            BASIC: _row(BASIC),
            CONFINED: _row(got, lacking),
            NAMESPACED: _row(NAMESPACED, lacking, self.bwrap),
        }

    def refusal(self, level: str) -> str:
        """Why a worker of this level cannot be had here; "": it can."""
        row = self.levels().get(level)
        why = f"there are only {', '.join(LEVELS)}" if row is None else row["refused"]
        return f"isolation {level!r}: {why}" if why else ""

    def notes(self) -> list[str]:
        """What is missing here of what can be asked for, a line each."""
        rows = self.levels()
        refused = rows[NAMESPACED]["refused"]
        return [*rows[CONFINED]["missing"], *([f"isolation {NAMESPACED} is refused: {refused}"] if refused else [])]


def _row(got: str, missing: list[str] | None = None, refused: str = "") -> dict[str, Any]:
    return {"got": got, "missing": missing or [], "refused": refused}


def abilities(bwrap: str) -> Abilities:
    """What the kernel says; `bwrap` is what was found out about bubblewrap."""
    return Abilities(landlock.abi(), seccomp.available(), bwrap)


class Ground:
    """What all workers of one parent have in common. It is laid in the parent, or in a child before it is asked for."""

    def __init__(self, base: Places, version: int | None = None) -> None:
        """`version` is Landlock's ABI, the kernel's if None."""
        self.base = base
        self._rights = landlock.rights(landlock.abi() if version is None else version)
        self._machine = seccomp.MACHINES.get(os.uname().machine) if seccomp.available() else None
        self._usual = self._filter(Isolation(level=CONFINED))
        self._capabilities = Capabilities()
        self._hidden: tuple[str, ...] = ()

    def expect(self, isolation: Isolation) -> None:
        """The next worker will be kept from the same as this one: `prepare` for it."""
        if isolation.level != BASIC:
            self._hidden = isolation.hidden

    def prepare(self) -> landlock.Ruleset | None:
        """A ruleset with the base, for this process alone: most of the work, before anybody waits for it."""
        if not self._rights.files:
            return None
        return self._based(Isolation(hidden=self._hidden), 0)

    def _based(self, isolation: Isolation, ports: int) -> landlock.Ruleset:
        ruleset = landlock.Ruleset(self._rights._replace(ports=ports))
        for grant in base_of(isolation, self.base):
            ruleset.allow(*grant)
        return ruleset

    def confine(self, isolation: Isolation, folder: str, prepared: landlock.Ruleset | None = None) -> None:
        """Bind this process, which has one thread and no_new_privs, for good. Raises OSError.

        `folder` is its channel's; `prepared` is of `prepare`, in this process.
        """
        if isolation.level not in LEVELS:
            raise ValueError(f"isolation {isolation.level!r}; allowed: {', '.join(LEVELS)}")
        if isolation.level == BASIC:
            if prepared is not None:
                prepared.close()
            return
        self._capabilities.drop_others()
        ruleset = self._ruleset(isolation, folder, prepared)
        if ruleset is not None:
            ruleset.restrict()
        usual = isolation.network and not isolation.unix_sockets
        chosen = self._usual if usual else self._filter(isolation)
        if chosen is not None:
            chosen.install()

    def _ruleset(self, isolation: Isolation, folder: str, prepared: landlock.Ruleset | None) -> landlock.Ruleset | None:
        if not self._rights.files:
            return None
        ports = self._ports(isolation)
        expected = isolation.hidden == self._hidden or is_whole(isolation, self.base)
        if prepared is not None and not ports and expected:
            ruleset = prepared
        else:
            if prepared is not None:
                prepared.close()
            ruleset = self._based(isolation, ports)
        for grant in granted(isolation, folder, self.base):
            ruleset.allow(*grant)
        ruleset.allow_ports(isolation.connect_ports or (), landlock.CONNECT_TCP & ports)
        ruleset.allow_ports(isolation.bind_ports or (), landlock.BIND_TCP & ports)
        return ruleset

    def _ports(self, isolation: Isolation) -> int:
        """What is restricted of TCP: what the kernel can, and the graph names ports for."""
        wanted = landlock.CONNECT_TCP if isolation.connect_ports is not None else 0
        wanted |= landlock.BIND_TCP if isolation.bind_ports is not None else 0
        return wanted & self._rights.ports

    def _filter(self, isolation: Isolation) -> seccomp.Filter | None:
        if self._machine is None:
            return None
        code = seccomp.program(
            self._machine,
            network=isolation.network,
            unix_sockets=isolation.unix_sockets,
            truncate=bool(self._rights.files & landlock.TRUNCATE),
        )
        return seccomp.Filter(code)


class Capabilities:
    """The KEPT_CAPABILITIES of those this process has. With no_new_privs no exec gives the others back."""

    def __init__(self) -> None:
        self._header = _Header(CAPABILITY_VERSION, 0)
        self._sets = _Sets()  # effective, permitted, inheritable: the low halves, then the high ones
        if _libc.capget(self._header, self._sets) != 0:
            raise _error()
        masks = (KEPT_CAPABILITIES, KEPT_CAPABILITIES, 0, 0, 0, 0)
        kept = _Sets(*(has & mask for has, mask in zip(self._sets, masks, strict=True)))
        self._less = any(has != keeps for has, keeps in zip(self._sets, kept, strict=True))
        self._sets = kept

    def drop_others(self) -> None:
        """Keep no more than these, for good."""
        if self._less and _libc.capset(self._header, self._sets) != 0:
            raise _error()


def _error() -> OSError:
    error = ctypes.get_errno()
    return OSError(error, f"capabilities: {os.strerror(error)}")
