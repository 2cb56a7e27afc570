"""The marks of pings, as a later supervisor finds them."""

import os
import time
from pathlib import Path

import pytest

from supervisor.processes.marks import BYTES, FILE, GROWTH, OURS, Mark, Marks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_a_mark_outlives_who_made_it(folder: Path) -> None:
    marks = Marks(folder)
    slot, now = marks.claim(), time.monotonic()
    assert marks.read(slot) == Mark(0.0, 0)
    marks.mark(slot, now, 7)
    marks.live()
    # not closed: as when it is killed
    later = Marks(folder)
    assert later.read(slot) == Mark(now, 7)
    assert now <= later.read(OURS).at <= time.monotonic()
    assert later.keep(slot)
    assert not later.keep(slot)
    assert later.claim() != slot
    for one in (marks, later):
        one.close()


def test_every_slot_is_handed_out_once_and_then_none(folder: Path) -> None:
    marks = Marks(folder)
    slots = [marks.claim() for _ in range(GROWTH - 1)]
    assert sorted(slots) == list(range(1, GROWTH))
    assert marks.claim() == OURS
    marks.mark(OURS, 5.0, 1)  # of a channel without a slot
    assert marks.read(OURS) == Mark(0.0, 0)
    marks.release(OURS)
    assert marks.claim() == OURS
    marks.release(slots[3])
    assert marks.claim() == slots[3]
    marks.close()


@pytest.mark.parametrize(
    ("at", "count"), [(-1.0, 1.0), (float("nan"), 1.0), (1e18, 1.0), (1.0, float("nan")), (1.0, -1.0), (1.0, 1e300)]
)
def test_nonsense_is_no_mark(folder: Path, at: float, count: float) -> None:
    marks = Marks(folder)
    slot = marks.claim()
    marks._slots[2 * slot], marks._slots[2 * slot + 1] = at, count
    assert marks.read(slot) == Mark(0.0, 0)
    assert marks.read(-1) == marks.read(GROWTH) == Mark(0.0, 0)
    marks.close()


@pytest.mark.parametrize("size", [0, 5, GROWTH * BYTES * 2])
def test_a_file_of_any_size_will_do(folder: Path, size: int) -> None:
    (folder / FILE).write_bytes(os.urandom(size))
    marks = Marks(folder)
    assert marks.claim() == 1
    marks.close()


def test_a_link_in_its_place_is_refused(folder: Path) -> None:
    (folder / FILE).symlink_to(folder / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Marks(folder)
