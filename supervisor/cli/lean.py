"""What `agentd serve` does without while it imports its modules: clients wait for a server that is restarted."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

CERTIFICATES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
PAINTER: Final = "rich"


@contextmanager
def lean() -> Iterator[None]:
    """A fifth of the time that the modules take is spent on these two, which the server never needs.

    aiohttp's client reads every certificate of the machine as soon as it is imported; ours only speaks to workers on
    loopback, without TLS. structlog paints tracebacks if `rich` is there; at a terminal they are plain now.
    """
    kept = {name: os.environ.get(name) for name in CERTIFICATES}
    os.environ.update(dict.fromkeys(CERTIFICATES, os.devnull))
    hidden = PAINTER not in sys.modules
    if hidden:
        sys.modules[PAINTER] = None  # type: ignore[assignment]  # so that its import fails
    try:
        yield
    finally:
        if hidden:
            del sys.modules[PAINTER]
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
