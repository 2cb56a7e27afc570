"""A turn's attachments as parts of a message: text is written out, images go along, of others the name is told."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from worker.agent import Attachment

MAX_TEXT: Final = 200_000  # characters of one file
MAX_IMAGE: Final = 10 * 1024 * 1024  # bytes of one image
MAX_BYTES: Final = 20 * 1024 * 1024  # of all files that are read for one turn
TEXT_TYPES: Final = ("text/", "application/json", "application/xml", "application/yaml")


class AttachmentError(ValueError):
    """An attachment that cannot be shown to a model; the text names it and what is allowed."""


def parts_of(attachments: Iterable[Attachment]) -> list[dict[str, Any]]:
    """The parts, in order. Reads files: to be called in a thread. Raises AttachmentError."""
    parts = []
    left = MAX_BYTES
    for attachment in attachments:
        part, size = _part(attachment, left)
        parts.append(part)
        left -= size
    return parts


def _part(attachment: Attachment, left: int) -> tuple[dict[str, Any], int]:
    """One part, and how many bytes were read for it."""
    kind = attachment.mime_type.partition(";")[0].strip().lower()
    if attachment.text is not None:
        return _text(attachment.name, attachment.text), 0
    if kind.startswith("image/"):
        data = _read(attachment, min(MAX_IMAGE, left))
        url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}, len(data)
    if kind.startswith(TEXT_TYPES):
        data = _read(attachment, left)
        return _text(attachment.name, data.decode(errors="replace")), len(data)
    note = f"[The file {attachment.name} ({kind}) is attached, but it cannot be read here.]"
    return {"type": "text", "text": note}, 0


def _text(name: str, text: str) -> dict[str, Any]:
    cut = f"\n[cut here: {MAX_TEXT} of {len(text)} characters]" if len(text) > MAX_TEXT else ""
    return {"type": "text", "text": f"File {name}:\n{text[:MAX_TEXT]}{cut}"}


def _read(attachment: Attachment, most: int) -> bytes:
    try:
        with Path(attachment.path).open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise AttachmentError(f"the attachment {attachment.name!r} cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise AttachmentError(
            f"the attachment {attachment.name!r} is too large for a model: at most {MAX_IMAGE} bytes for an image "
            f"and {MAX_BYTES} for all files are allowed"
        )
    return data
