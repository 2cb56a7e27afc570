"""A channel's folder and its record."""

import json
import stat
from pathlib import Path

import pytest

from supervisor.processes.bundle import Bundle, clear_bundles, prepare_state
from worker.spawn import FIFOS


@pytest.fixture
def bundle(state_dir: Path) -> Bundle:
    prepare_state(state_dir)
    bundle = Bundle(state_dir, "7-1")
    bundle.create()
    return bundle


def test_only_we_can_look_into_it(bundle: Bundle) -> None:
    assert stat.S_IMODE(bundle.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(bundle.folder.parent.stat().st_mode) == 0o700
    for name in FIFOS:
        status = (bundle.folder / name).stat()
        assert stat.S_ISFIFO(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600


def test_a_record_is_replaced_whole(bundle: Bundle) -> None:
    path = bundle.folder / "record.json"
    bundle.write_record({"id": "7-1", "pid": 1})
    held = path.open("rb")
    bundle.write_record({"id": "7-1", "pid": 2})
    with held:
        assert json.load(held) == {"version": 1, "id": "7-1", "pid": 1}
    assert json.loads(path.read_bytes()) == {"version": 1, "id": "7-1", "pid": 2}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (bundle.folder / "record.json.new").exists()


def test_what_is_ours_is_removed_and_what_is_not_is_told(bundle: Bundle) -> None:
    bundle.write_record({"id": "7-1"})
    assert bundle.remove_own() is True
    assert not bundle.folder.exists()
    assert bundle.remove_own() is True
    bundle.remove()


@pytest.mark.parametrize("name", ["other", "down", "record.json.new"])
def test_what_a_worker_left_goes_with_the_folder(bundle: Bundle, name: str) -> None:
    (bundle.folder / name).unlink(missing_ok=True)
    (bundle.folder / name).mkdir()
    (bundle.folder / name / "file").touch()
    assert bundle.remove_own() is False
    bundle.remove()
    assert not bundle.folder.exists()


def test_a_new_server_clears_what_is_left_and_nothing_else(bundle: Bundle, state_dir: Path, tmp_path: Path) -> None:
    Bundle(state_dir, "7-2").create()
    logs = tmp_path / "logs"
    logs.mkdir()
    for name in ("property-c-20200101_000000_7-1.json", "property-c-20200101_000000_8-1.json", "app-c_7-1.log"):
        (logs / name).touch()
    assert clear_bundles(state_dir, logs) == 2
    assert list((state_dir / "ch").iterdir()) == []
    assert sorted(path.name for path in logs.iterdir()) == [
        "app-c_7-1.log",
        "property-c-20200101_000000_8-1.json",
    ]
