"""The default properties of add-ons, read from a TEN app's folder (wire/ten.md section 8)."""

from pathlib import Path
from typing import Any, Final

import structlog

from supervisor import strict_json
from supervisor.causes import Cause, Refusal

MAX_FILE: Final = 1024 * 1024

log = structlog.get_logger()


def read_default_properties(folder: Path) -> list[dict[str, Any]]:
    """``{"addon", "property"}`` of each add-on folder with a readable ``property.json``, sorted by name.

    Blocks on the disk. Raises Refusal(ADDONS_UNREADABLE).
    """
    try:
        addons = sorted(folder.iterdir())
    except OSError as error:
        raise Refusal(Cause.ADDONS_UNREADABLE, f"add-on folder {folder}: {error.strerror}") from error
    found = []
    for addon in addons:
        path = addon / "property.json"
        try:
            if path.is_file():
                found.append({"addon": addon.name, "property": strict_json.parse(_read(path))})
        except (OSError, ValueError) as error:
            log.warning("addon.defaults_skipped", addon=addon.name, error=str(error))
    return found


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise ValueError(f"over {MAX_FILE} bytes")
    return data
