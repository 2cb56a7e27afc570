"""Landlock's rights by kernel ABI, pure; and rulesets of every ABI that this kernel has, in real children."""

import os
from pathlib import Path

import pytest

from tests.spawner.test_seccomp import in_child
from worker.spawner import landlock
from worker.spawner.linux import PR_SET_NO_NEW_PRIVS, prctl

ABI = landlock.abi()


@pytest.mark.parametrize(
    ("version", "files", "ports", "scopes"),
    [
        (0, 0, 0, 0),
        (1, 0x1FFF, 0, 0),
        (2, 0x3FFF, 0, 0),
        (3, 0x7FFF, 0, 0),
        (4, 0x7FFF, 3, 0),
        (5, 0xFFFF, 3, 0),
        (6, 0xFFFF, 3, 3),
        (7, 0xFFFF, 3, 3),
    ],
)
def test_what_an_abi_can_handle(version: int, files: int, ports: int, scopes: int) -> None:
    assert landlock.rights(version) == (files, ports, scopes)


@pytest.mark.parametrize(("version", "count"), [(0, 4), (1, 4), (2, 3), (3, 3), (4, 2), (5, 1), (6, 0), (7, 0)])
def test_what_is_missing_is_told(version: int, count: int) -> None:
    told = landlock.missing(version)
    assert len(told) == count
    if 0 < version < 6:
        assert f"Landlock ABI {version}; 6 is needed" in told[-1]


@pytest.mark.parametrize("version", range(1, ABI + 1))
def test_a_ruleset_of_every_abi_holds(tmp_path: Path, version: int) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")

    def bound() -> list[str]:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        ruleset = landlock.Ruleset(landlock.rights(version))
        assert ruleset.allow(str(tmp_path / "in"), landlock.WRITE)
        assert not ruleset.allow(str(tmp_path / "nowhere"), landlock.READ)
        ruleset.restrict()
        found = []
        for path in (tmp_path / "in" / "file", tmp_path / "in" / "new", tmp_path / "out" / "file"):
            try:
                with path.open("a"):
                    found.append("done")
            except OSError as error:
                found.append(str(error.errno))
        try:
            os.kill(os.getppid(), 0)
            found.append("signalled")
        except PermissionError:
            found.append("kept in")
        return found

    signalled = "kept in" if version >= 6 else "signalled"
    assert in_child(bound).decode() == str(["done", "done", "13", signalled])
