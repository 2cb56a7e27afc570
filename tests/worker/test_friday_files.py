"""How friday describes files and images."""

from typing import Any

import pytest

from worker.addons.friday_files import MOST_FILES, describe_all
from worker.turn import Attachment

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def attachment(path: Any, name: Any = "note.txt", mime: Any = "text/plain", text: Any = None) -> Any:
    return Attachment(id="a1", name=name, mime_type=mime, path=str(path), text=text)


@pytest.mark.parametrize(
    ("name", "mime", "text", "described"),
    [
        ("note.txt", "text/plain", "Hello\n there", 'note.txt (text/plain, 5 bytes), which begins "Hello there"'),
        ("note.txt", "text/plain", "", "note.txt (text/plain, 5 bytes), which has no text"),
        ("note.txt", "text/plain", " \n", "note.txt (text/plain, 5 bytes), which has no text"),
        ("cat.png", "image/png", None, "image cat.png (image/png, 5 bytes)"),
        ("x.svg", "image/svg+xml", "A b", 'image x.svg (image/svg+xml, 5 bytes), which begins "A b"'),
        ("x.bin", "application/octet-stream", None, "x.bin (application/octet-stream, 5 bytes)"),
        ("x", "", None, "x (application/octet-stream, 5 bytes)"),
        ("报告 1.pdf", "application/pdf", "一 二", '报告 1.pdf (application/pdf, 5 bytes), which begins "一 二"'),
        (
            "long.txt",
            "text/plain",
            "word " * 50_000,
            f'long.txt (text/plain, 5 bytes), which begins "{" ".join(["word"] * 12)}..."',
        ),
        ("n" * 300, "text/plain", None, f"{'n' * 255}... (text/plain, 5 bytes)"),
    ],
)
def test_an_attachment(tmp_path: Any, name: Any, mime: Any, text: Any, described: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert describe_all([attachment(path, name, mime, text)], "question") == (described,)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "", "a\0b", "x" * 5000])
def test_an_attachment_that_cannot_be_read_is_named_all_the_same(path: Any) -> None:
    assert describe_all([attachment(path)], None)[0].startswith("note.txt (text/plain, ")


@pytest.mark.parametrize(
    ("part", "described"),
    [
        ({"type": "image_url", "image_url": {"url": PIXEL}}, "one image (image/png, 8 bytes)"),
        ({"type": "image_url", "image_url": {"url": "https://x/y.png"}}, "one image at https://x/y.png"),
        ({"type": "image", "image_url": PIXEL}, "one image (image/png, 8 bytes)"),
        ({"type": "input_image", "image_url": "https://x/" + "y" * 500}, f"one image at https://x/{'y' * 90}..."),
        ({"type": "input_image", "file_id": "f1"}, "one image at f1"),
        ({"type": "image"}, "one image"),
        ({"type": "image", "image_url": 5}, "one image"),
        ({"type": "image", "image_url": "data:,abc"}, "one image (text/plain, 3 bytes)"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "one sound (3 bytes)"),
        ({"type": "audio", "data": "AAA="}, "one sound (2 bytes)"),
        ({"type": "video", "video_url": "https://x/v"}, "one video at https://x/v"),
        ({"type": "file", "filename": "a.pdf", "file_data": "AAAA"}, "file a.pdf (3 bytes)"),
        ({"type": "input_file", "filename": "a.pdf", "file_data": PIXEL}, "file a.pdf (image/png, 8 bytes)"),
        ({"type": "file", "file": {"filename": "b.txt", "file_id": "f2"}}, "file b.txt at f2"),
    ],
)
def test_a_part_that_is_no_text(part: Any, described: Any) -> None:
    assert describe_all([], [{"type": "text", "text": "see"}, part]) == (described,)


@pytest.mark.parametrize(
    "content", [None, "text", 5, {"type": "image"}, [], [5, None, "x", {}, {"type": "text", "text": "x"}, {"type": []}]]
)
def test_what_is_no_file(content: Any) -> None:
    assert describe_all([], content) == ()


def test_the_list_is_bounded(tmp_path: Any) -> None:
    described = describe_all([attachment(tmp_path)] * 2, [{"type": "image"}] * MOST_FILES)
    assert len(described) == MOST_FILES + 1
    assert described[-1] == "and 2 more"
