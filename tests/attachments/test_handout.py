"""Attachments where a confined worker may read them: links in its channel's own folder."""

import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from supervisor.attachments.handout import Handout, Handouts

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
CHANNEL = "18f0a-1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "attachments" / ("a" * 64) / ID
    place.mkdir(parents=True)
    (place / "note.txt").write_text("note")
    return tmp_path / "attachments"


@pytest.fixture
def handout(root: Path) -> Handout:
    made = Handouts(root, "i1").of(CHANNEL)
    made.create()
    return made


def attachment(root: Path, **fields: Any) -> dict[str, Any]:
    path = root / ("a" * 64) / ID / "note.txt"
    return {"id": ID, "name": "note.txt", "mime_type": "text/plain", "path": str(path), **fields}


def test_a_file_is_linked_and_stays_when_the_channel_goes(root: Path, handout: Handout) -> None:
    asked = attachment(root)
    [given] = handout.give([asked])
    path = Path(given.pop("path"))
    assert path == root / ".given-i1" / CHANNEL / ID / "note.txt"
    assert given == {name: value for name, value in asked.items() if name != "path"}
    assert path.samefile(asked["path"])
    assert stat.S_IMODE(handout.folder.stat().st_mode) == 0o700
    assert handout.give([asked]) == handout.give([asked]), "once more in a later turn"
    handout.remove()
    assert not handout.folder.exists()
    assert Path(asked["path"]).read_text() == "note"


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "/etc/passwd"},
        {"id": "../../x"},
        {"path": ""},
    ],
)
def test_only_attachments_are_handed_out(root: Path, handout: Handout, fields: dict[str, str]) -> None:
    asked = attachment(root, **fields)
    [given] = handout.give([asked])
    assert given["path"] in {asked["path"], "."}
    assert list(handout.folder.iterdir()) == []


def test_what_has_gone_keeps_its_path(root: Path, handout: Handout) -> None:
    asked = attachment(root)
    Path(asked["path"]).unlink()
    assert handout.give([asked]) == [asked]


def test_a_file_system_without_links_gets_copies(root: Path, handout: Handout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr("os.link", refuse)
    [given] = handout.give([attachment(root)])
    assert Path(given["path"]).read_text() == "note"
    assert not Path(given["path"]).samefile(attachment(root)["path"])


def test_what_channels_left_is_cleared_but_for_the_live_ones(root: Path) -> None:
    handouts = Handouts(root, "i1")
    handouts.clear()
    for channel in ("1-1", "1-2"):
        handouts.of(channel).create()
        handouts.of(channel).give([attachment(root)])
    (root / ".given-i1" / "somebody's").mkdir()
    Handouts(root, "i2").of("1-1").create()
    handouts.clear(live={"1-2"})
    assert sorted(path.name for path in (root / ".given-i1").iterdir()) == ["1-2", "somebody's"]
    assert (root / ".given-i2" / "1-1").exists(), "another server's"
    shutil.rmtree(root)
    handouts.clear()
