"""Which names the server may be called by when neither token nor keys protect it.

A page on the web can point its own name at this machine (DNS rebinding) and is then, for the browser, of the same
origin as the server. Its requests carry that name in their Host header; so only names that nobody else can have
pointed here are served. Browsers always send the header: a request without it is none of theirs.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Final

from supervisor.causes import Cause, Refusal

MOST_KNOWN: Final = 256
MAX_SHOWN: Final = 200

_HOST: Final = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")


def name_of(header: str) -> str:
    """The host of a Host header, without port, brackets and final dot, in lower case; "" when it is malformed."""
    match = _HOST.fullmatch(header.strip())
    return (match[1] or match[2] or "").lower().removesuffix(".") if match else ""


class Hosts:
    """The names of one server; `known` holds headers that were found good, for a cheap look before `admit`."""

    def __init__(self, listen_hosts: Iterable[str], allowed: Sequence[str]) -> None:
        """`allowed` are patterns in lower case."""
        self._patterns = ("localhost", "*.localhost", *allowed)
        self._listen_hosts = tuple(dict.fromkeys(host.lower().removesuffix(".") for host in listen_hosts))
        self.known: set[str | None] = {None}

    def admit(self, header: str) -> None:
        """Raises Refusal(HOST_REFUSED) when the name in a Host header is not served."""
        name = name_of(header)
        if not (_is_address(name) or name in self._listen_hosts or self._matches(name)):
            names = ", ".join(dict.fromkeys((*self._patterns, *self._listen_hosts)))
            raise Refusal(
                Cause.HOST_REFUSED,
                f"the Host header is {header[:MAX_SHOWN]!r}; without a token or key allowed are IP addresses, {names}; "
                "set AGENTD_TOKEN, make a key, or add the name to AGENTD_ALLOWED_HOSTS",
            )
        if len(self.known) >= MOST_KNOWN:
            self.known = {None}
        self.known.add(header)

    def _matches(self, name: str) -> bool:
        return bool(name) and any(fnmatchcase(name, pattern) for pattern in self._patterns)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
