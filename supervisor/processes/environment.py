"""Which of our environment variables a worker gets: chosen, never leaked. Pure."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

# What programs need to find themselves, the locale, the time zone and the certificates; nothing that is secret.
BASE: Final = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TMPDIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
)
OURS: Final = "AGENTD_"


def choose(environ: Mapping[str, str], patterns: Sequence[str]) -> dict[str, str]:
    """The base list and what `patterns` (fnmatch) name. Our own settings are never passed on."""
    wanted = (*BASE, *patterns)
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(OURS) and any(fnmatchcase(name, pattern) for pattern in wanted)
    }
