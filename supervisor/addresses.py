"""Addresses to listen on: ``host:port``, an IPv6 address in brackets. Pure, and cheap to import."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

MOST_PORT: Final = 65535
LISTEN_ALLOWED: Final = (
    "host:port, for example 127.0.0.1:8080 or [::1]:8080, several separated by commas; port 0 takes any free port"
)

_LABEL: Final = "[A-Za-z0-9_-]{1,63}"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class Address:
    """A host, without brackets, and a port; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_host(text: str) -> bool:
    """Whether this is the name of a host, or an IP address without brackets."""
    if ":" not in text:
        return _NAME.fullmatch(text) is not None
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def parse_listen(text: object) -> Address | None:
    """The address of ``host:port``, an IPv6 address in brackets; None when it is not of this form."""
    if not isinstance(text, str):
        return None
    host, _, port = text.strip().rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host == f"[{bare}]"
    if not is_host(bare) or bracketed != (":" in bare):
        return None
    if not (port.isascii() and port.isdigit() and len(port) <= len(str(MOST_PORT)) and int(port) <= MOST_PORT):
        return None
    return Address(bare, int(port))


def items_of(value: object) -> list[object]:
    """What stands between the commas of a text, or in a list; each item is still to be parsed."""
    if isinstance(value, str):
        return [item for item in map(str.strip, value.split(",")) if item]
    return list(value) if isinstance(value, list | tuple) else [value]
