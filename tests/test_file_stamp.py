"""When a file's stamp is to be trusted: after a few ticks of the clock, whichever way the clock is wrong."""

import time
from pathlib import Path

import pytest

from supervisor.file_stamp import SETTLE_NS, is_settled, stamp_of


def test_every_change_shows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    first = stamp_of(path.stat())
    assert stamp_of(path.stat()) == first
    path.write_text("three")
    assert stamp_of(path.stat()) != first
    moved = tmp_path / "moved"
    moved.write_text("three")
    second = stamp_of(path.stat())
    moved.replace(path)
    assert stamp_of(path.stat()) != second


@pytest.mark.parametrize(
    ("age_ns", "settled"),
    [
        (0, False),
        (SETTLE_NS // 2, False),
        (-SETTLE_NS // 2, False),
        (2 * SETTLE_NS, True),
        (3600 * 10**9, True),
        (-3600 * 10**9, True),  # the clock was set back, or the file is another machine's
    ],
)
def test_when_it_is_settled(monkeypatch: pytest.MonkeyPatch, age_ns: int, settled: bool) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    assert is_settled((1, 2, 3, 4, 10**18 - age_ns)) is settled
