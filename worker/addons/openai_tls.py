"""The TLS context of the model's client: reading a system's certificates takes longer than a worker's whole start.

Made in the zygote it is there for all its workers; a worker whose environment names other certificates makes its own.
"""

import functools
import os
import ssl

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # what OpenSSL reads when the certificates are loaded


def tls_context() -> ssl.SSLContext:
    """The context for this process's environment. Raises OSError when the certificates cannot be read."""
    return _context(tuple(os.environ.get(name) for name in VARIABLES))


@functools.cache
def _context(_certificates: tuple[str | None, ...]) -> ssl.SSLContext:
    return ssl.create_default_context()
