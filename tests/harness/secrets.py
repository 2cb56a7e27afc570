"""The secrets that the tests plant, and where they must never turn up: logs, errors, listings, process arguments.

Keys and tokens of users are known by their form; what else is a secret is planted by its value.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tests.harness import leaks

FORMS: Final = (
    re.compile(rb"agentd_[0-9a-f]{8}_[A-Za-z0-9_-]{43}"),
    re.compile(rb"eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{40,}"),
)
SETTINGS: Final = ("AGENTD_TOKEN", "AGENTD_JWT_SECRET", "AGORA_APP_CERTIFICATE")
LEAST: Final = 6  # bytes: what is shorter is found by chance
MOST_READ: Final = 8 * 1024 * 1024


def planted_in(settings: Mapping[str, str]) -> set[bytes]:
    """The secrets among a server's settings."""
    return {settings[name].encode() for name in SETTINGS if len(settings.get(name, "")) >= LEAST}


def leaked(data: bytes, planted: Iterable[bytes] = ()) -> list[bytes]:
    """The secrets in some output."""
    return [match[0] for form in FORMS for match in form.finditer(data)] + [one for one in planted if one in data]


def in_files(folder: Path, planted: Iterable[bytes]) -> list[str]:
    """The files below a folder that have a secret in their name or in what they hold."""
    found = []
    for place, folders, files in os.walk(folder):  # what goes meanwhile, as a spawner's that lives on, is passed over
        for name in (*folders, *files):
            if leaked(os.fsencode(name), planted):
                found.append(f"the name of {place}/{name}")
        for path in (Path(place) / name for name in files):
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG(path.lstat().st_mode) and leaked(_head(path), planted):
                    found.append(str(path))
    return found


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_READ)


def in_arguments(folder: Path, planted: Iterable[bytes]) -> list[str]:
    """The processes of a test whose arguments have a secret."""
    found = []
    for pid in leaks.processes_of(folder):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if leaked(arguments, planted):
            found.append(f"arguments of process {pid}")
    return found
