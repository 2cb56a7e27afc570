"""A channel's folder and its record, whatever a worker makes of them; the state folder around them."""

import ctypes
import json
import os
import resource
import shutil
import socket
import stat
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.processes.bundle import MARKER, Bundle, clear_bundles, prepare_state, remove
from worker.spawn import FIFOS, TEMPORARY, instance_of

NOBODY = 65534
RECORD = b'{"id": "7-1"}'


@pytest.fixture
def bundle(state_dir: Path) -> Bundle:
    prepare_state(state_dir)
    bundle = Bundle(state_dir, "7-1")
    bundle.create()
    return bundle


def test_only_we_can_look_into_it(bundle: Bundle) -> None:
    for folder in (bundle.folder, bundle.folder.parent, bundle.record.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in FIFOS:
        status = (bundle.folder / name).stat()
        assert stat.S_ISFIFO(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600


# ---------------------------------------------------------------------- the record


def test_a_record_is_replaced_whole_and_lies_outside_the_workers_folder(bundle: Bundle) -> None:
    bundle.write_record(b'{"pid": 1}')
    held = bundle.record.open("rb")
    bundle.write_record(b'{"pid": 2}')
    with held:
        assert json.load(held) == {"pid": 1}
    assert json.loads(bundle.record.read_bytes()) == {"pid": 2}
    assert stat.S_IMODE(bundle.record.stat().st_mode) == 0o600
    assert list(bundle.record.parent.iterdir()) == [bundle.record]
    assert sorted(path.name for path in bundle.folder.iterdir()) == sorted((*FIFOS, TEMPORARY))


@pytest.mark.parametrize("where", ["the worker's folder", "beside the record"])
@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_what_is_planted_in_the_records_place_is_neither_waited_for_nor_followed(
    bundle: Bundle, tmp_path: Path, where: str, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    names = {
        "the worker's folder": [bundle.folder / "record.json", bundle.folder / "record.json.new"],
        "beside the record": [bundle.record, bundle.record.with_suffix(".json.new")],
    }[where]
    for path in names:
        os.mkfifo(path) if kind == "fifo" else path.symlink_to(victim)
    bundle.write_record(RECORD)
    assert bundle.record.read_bytes() == RECORD
    assert not bundle.record.is_symlink()
    assert victim.read_text() == "precious"


def test_a_full_disk_leaves_the_old_record(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.write_record(RECORD)
    # Over the limit a write is cut short first, and fails then: as on a disk that fills up. Python ignores SIGXFSZ.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            bundle.write_record(b"x" * 500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert bundle.record.read_bytes() == RECORD
    assert list(bundle.record.parent.iterdir()) == [bundle.record]


# ---------------------------------------------------------------------- removal


def test_what_is_ours_is_removed_and_what_is_not_is_told(bundle: Bundle) -> None:
    bundle.write_record(RECORD)
    assert bundle.remove_own() is True
    assert not bundle.folder.exists()
    assert bundle.record.exists()
    assert bundle.remove_own() is True
    bundle.remove()
    bundle.write_turn(RECORD)
    for _ in range(2):
        bundle.forget()
        assert list(bundle.record.parent.iterdir()) == []


def locked(folder: Path) -> None:
    for path in (folder / "a", folder / "a" / "b"):
        path.mkdir()
        (path / "file").touch()
    (folder / "a" / "b").chmod(0)
    (folder / "a").chmod(0o500)


def closed(folder: Path) -> None:
    (folder / "sub").mkdir()
    folder.chmod(0)


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        remove(folder)
        make(folder)

    return replace


def deep(folder: Path) -> None:
    """Deeper than a path, a stack or a table of descriptors may be."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


def unusual(folder: Path) -> None:
    os.mkfifo(folder / "fifo", 0)
    (folder / "link").symlink_to(folder.parent.parent.parent / "victim")
    (folder / "broken").symlink_to("nowhere")
    (folder / os.fsdecode(b"\xff\n")).touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))


def linked_away(folder: Path) -> None:
    folder.symlink_to(folder.parent.parent.parent / "victim")


LEFT: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: (folder / "other").touch(),
    "a folder": lambda folder: (folder / "other").mkdir(),
    "a folder in the place of a fifo": lambda folder: (
        (folder / "up").unlink(),
        (folder / "up" / "x").mkdir(parents=True),
    ),
    "locked folders": locked,
    "a closed folder": closed,
    "depth": deep,
    "unusual files": unusual,
    "itself as a file": replaced_by(lambda folder: folder.touch()),
    "itself as a link": replaced_by(linked_away),
    "itself as a fifo": replaced_by(os.mkfifo),
    "nothing": remove,
}


@pytest.mark.parametrize("left", LEFT)
def test_whatever_a_worker_left_goes(bundle: Bundle, tmp_path: Path, left: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "lock").write_text("precious")
    bundle.write_record(RECORD)
    LEFT[left](bundle.folder)
    assert bundle.remove_own() is (left == "nothing")
    bundle.remove()
    assert list(bundle.folder.parent.iterdir()) == []
    assert (victim / "lock").read_text() == "precious"


def without_capabilities(act: Callable[[], None]) -> None:
    """Do it in a child that modes hold up, also when its user is root."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
            assert ctypes.CDLL(None).capset(header, nothing) == 0
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("leave", [locked, closed])
def test_modes_hold_nothing_up(bundle: Bundle, state_dir: Path, leave: Callable[[Path], None]) -> None:
    def act() -> None:
        leave(bundle.folder)
        assert bundle.remove_own() is False
        with pytest.raises(PermissionError):
            shutil.rmtree(bundle.folder)
        bundle.remove()
        assert not bundle.folder.exists()
        bundle.create()
        leave(bundle.folder)
        assert clear_bundles(state_dir, state_dir) == 1
        assert not bundle.folder.exists()

    without_capabilities(act)


# ---------------------------------------------------------------------- a new server


def test_a_new_server_clears_what_is_left_and_nothing_else(bundle: Bundle, state_dir: Path, tmp_path: Path) -> None:
    locked(bundle.folder)
    bundle.write_record(RECORD)
    second = Bundle(state_dir, "7-2")
    second.create()
    closed(second.folder)
    second.record.with_suffix(".json.new").touch()
    second.write_turn(RECORD)
    third = Bundle(state_dir, "7-4")
    third.create()
    third.write_record(RECORD)
    third.write_turn(RECORD)
    foreign = [state_dir / "ch" / "notes", state_dir / "ch" / "7-1-x", state_dir / "records" / "notes.json"]
    for folder in foreign:
        folder.mkdir()
    (state_dir / "ch" / "7-3").write_text("a file")
    logs = tmp_path / "logs"
    logs.mkdir()
    own, other = instance_of(state_dir), instance_of(tmp_path)
    gone = [f"property-c-20200101_000000_{own}-7-1.json", f"property-a\nb-20200101_000000_{own}-18f-99.json"]
    kept = [
        f"property-c-20200101_000000_{other}-7-1.json",
        f"property-x_{own}-7-1.json-20200101_000000_{other}-7-1.json",
        f"property-c-20200101_000000_{own}-7-1.json.bak",
        f"app-c-20200101_000000_{own}-7-1.log",
        f"property-d-20200101_000000_{own}-7-4.json",
        "property-mine.json",
    ]
    for name in (*gone, *kept):
        (logs / name).touch()
    assert clear_bundles(state_dir, logs, {"7-4"}) == 2
    assert sorted(path.name for path in (state_dir / "ch").iterdir()) == ["7-1-x", "7-3", "7-4", "notes"]
    left = sorted(path.name for path in (state_dir / "records").iterdir())
    assert left == ["7-4.json", "7-4.turn.json", "notes.json"]
    assert sorted(path.name for path in logs.iterdir()) == sorted(kept)


def test_the_property_files_go_also_when_the_state_folder_was_lost(state_dir: Path, tmp_path: Path) -> None:
    """As after a reboot: /run is empty then, LOG_PATH is not."""
    prepare_state(state_dir)
    (tmp_path / f"property-c-20200101_000000_{instance_of(state_dir)}-18f-1.json").write_text("token")
    assert clear_bundles(state_dir, tmp_path) == 0
    assert list(tmp_path.glob("property-*")) == []


def test_what_cannot_be_removed_stays_and_the_rest_goes(
    bundle: Bundle, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bundle(state_dir, "7-2").create()
    rmdir = os.rmdir

    def refuse(path: str, **options: int) -> None:
        if path == "7-1":
            raise OSError(16, "Device or resource busy")
        rmdir(path, **options)

    monkeypatch.setattr(os, "rmdir", refuse)
    assert clear_bundles(state_dir, state_dir / "no logs") == 1
    assert [path.name for path in (state_dir / "ch").iterdir()] == ["7-1"]


# ---------------------------------------------------------------------- the state folder


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777, 0o500])
def test_an_empty_folder_becomes_ours(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    prepare_state(folder)
    prepare_state(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / MARKER).stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["agentd-state", "ch", "records"]


def test_ours_is_made_private_again(state_dir: Path) -> None:
    prepare_state(state_dir)
    (state_dir / "anything").touch()
    state_dir.chmod(0o755)
    prepare_state(state_dir)
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", ["a file", "ch", "a marker that is none"])
def test_a_folder_with_something_else_in_it_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    (folder / (MARKER if "marker" in content else content)).mkdir()
    before = [path.name for path in folder.iterdir()]
    with pytest.raises(PermissionError) as caught:
        prepare_state(folder)
    assert str(caught.value) == f"state folder {folder} is not empty and not agentd's: choose another or an empty one"
    assert [path.name for path in folder.iterdir()] == before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_folder_for_everybody_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(PermissionError, match="is for everybody"):
        prepare_state(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_somebody_else_s_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match=f"belongs to user {NOBODY}"):
        prepare_state(folder)
    assert list(folder.iterdir()) == []
