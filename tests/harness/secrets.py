"""The secrets that the tests plant, and where they must never turn up: logs, errors, listings, process arguments.

Keys and tokens of users are known by their form; what else is a secret is planted by its value.
"""

import os
import re
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
    for path in folder.rglob("*"):
        if leaked(os.fsencode(path), planted):
            found.append(f"the name of {path}")
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if leaked(file.read(MOST_READ), planted):
                    found.append(str(path))
    return found


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
