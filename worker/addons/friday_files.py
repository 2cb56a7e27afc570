"""How `friday` describes the files and images that came with a question."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from worker.addons.words import first_words
from worker.turn import Attachment

MOST_WORDS: Final = 12
MOST_CHARACTERS: Final = 200  # of the first words of a file
MOST_NAME: Final = 255
MOST_FILES: Final = 100

# Types of content parts that are no text: what they are called, and the keys under which their data may stand.
MEDIA: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    **dict.fromkeys(("image", "image_url", "input_image"), ("image", ("image_url", "file_id"))),
    **dict.fromkeys(("audio", "input_audio"), ("sound", ("data",))),
    **dict.fromkeys(("video", "video_url"), ("video", ("video_url",))),
    **dict.fromkeys(("file", "input_file"), ("file", ("file_data", "file_url", "file_id"))),
}


def describe_all(attachments: Iterable[Attachment], content: Any) -> tuple[str, ...]:
    """A description of each attachment, and of each part of the message's content that is no text; 100 at most."""
    found = [*(_file(attachment) for attachment in attachments), *_media(content)]
    beyond = len(found) - MOST_FILES
    return tuple(found) if beyond <= 0 else (*found[:MOST_FILES], f"and {beyond} more")


def _file(file: Attachment) -> str:
    """Name, type and size of a file, called an image if it is one, and the first words of its text if it has any."""
    mime = file.mime_type or "application/octet-stream"
    kind = "image " if mime.startswith("image/") else ""
    described = f"{kind}{_short(file.name, MOST_NAME)} ({_short(mime)}, {_size(file.path)})"
    if file.text is None:
        return described
    begins = first_words(file.text, MOST_WORDS, MOST_CHARACTERS)
    return f'{described}, which begins "{begins}"' if begins else f"{described}, which has no text"


def _size(path: str) -> str:
    try:
        return f"{Path(path).stat().st_size} bytes"
    except (OSError, ValueError):  # gone, or no path at all
        return "which cannot be read"


def _media(content: Any) -> Iterator[str]:
    parts = content if isinstance(content, list) else ()
    for part in parts:
        if isinstance(part, Mapping) and (known := MEDIA.get(str(part.get("type")))):
            kind, keys = known
            yield _medium(kind, part, keys)


def _medium(kind: str, part: Mapping[str, Any], keys: Iterable[str]) -> str:
    """A part's kind, file name, type and size if the data is there, else where it is said to be."""
    inner = part.get(str(part["type"]))  # OpenAI: {"type": "input_audio", "input_audio": {"data": ...}}
    fields = {**part, **inner} if isinstance(inner, Mapping) else part
    name = fields.get("filename")
    called = f"{kind} {_short(name, MOST_NAME)}" if isinstance(name, str) and name else f"one {kind}"
    data = next((text for key in keys if (text := _text(fields.get(key)))), "")
    if not data:
        return called
    if data.startswith("data:"):
        head, _, body = data.partition(",")
        mime = head.removeprefix("data:").partition(";")[0] or "text/plain"
        return f"{called} ({_short(mime)}, {_decoded(body) if head.endswith(';base64') else len(body)} bytes)"
    if "data" in keys or data is fields.get("file_data"):
        return f"{called} ({_decoded(data)} bytes)"
    return f"{called} at {_short(data)}"


def _text(value: Any) -> str:
    """A string, also one inside ``{"url": ...}``."""
    if isinstance(value, Mapping):
        value = value.get("url")
    return value if isinstance(value, str) else ""


def _decoded(base64: str) -> int:
    """The number of bytes that a text in base64 holds."""
    return len(base64.rstrip("=")) * 3 // 4


def _short(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
