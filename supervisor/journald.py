"""Log events in the journal with fields of their own, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

Written here because the libraries for it do less: systemd-python is C to be built against the host's headers, and the
others hang below `logging`, take a socket that blocks, or give up on an entry that is too large for a datagram.
"""

import array
import errno
import fcntl
import os
import re
import socket
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final

import orjson

from supervisor.sinks import Sink

ADDRESS: Final = "/run/systemd/journal/socket"
STREAM: Final = "JOURNAL_STREAM"
IDENTIFIER: Final = "agentd"
MOST_NAME: Final = 64
FULL_SECONDS: Final = 0.5
# What the protocol, or journalctl, gives a meaning to: a key of ours with such a name gets a prefix.
MEANT: Final = re.compile(
    "MESSAGE(_ID)?|PRIORITY|ERRNO|INVOCATION_ID|(USER_)?UNIT|TID|(CODE|SYSLOG|OBJECT|COREDUMP)_.*"
)
PREFIX: Final = "AGENTD_"
PRIORITIES: Final[Mapping[str, int]] = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

_FOREIGN: Final = re.compile("[^A-Z0-9_]")


def leads_to_journal(environ: MutableMapping[str, str], fd: int) -> bool:
    """Whether this descriptor is the one that the service manager connected to the journal, and not redirected since.

    Takes the variable that tells of it out of `environ`: what we start has an output of its own.
    """
    stream = environ.pop(STREAM, "")
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def name_of(key: str) -> str:
    """A key as the name of a field: at most 64 of A-Z, 0-9 and _, a letter first, and none that has a meaning."""
    name = _FOREIGN.sub("_", key.upper())
    if not name[:1].isalpha() or MEANT.fullmatch(name):
        name = PREFIX + name.lstrip("_")
    return name[:MOST_NAME]


def entry_of(event: Mapping[str, Any]) -> bytes:
    """The journal's entry for an event: MESSAGE its name, PRIORITY its level, a field for each of its other keys.

    Strings are as they are, all else is JSON. The time of the event is left to the journal, which has its own.
    """
    return b"".join(
        (
            _field("MESSAGE", str(event.get("event", ""))),
            _field("PRIORITY", str(PRIORITIES.get(event.get("level", ""), 6))),
            _field("SYSLOG_IDENTIFIER", IDENTIFIER),
            *(_field(name_of(key), _text(value)) for key, value in _others(event)),
        )
    )


def _others(event: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in event.items() if key not in {"event", "level", "timestamp"})


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:  # the binary form: no value can pass for a field
        return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%b=%b\n" % (name.encode(), data)


class Journal:
    """Takes lines of JSON, one event each, and makes entries of them; what the journal refuses goes to `instead`."""

    def __init__(self, instead: Sink, address: str = ADDRESS) -> None:
        self._instead = instead
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def put(self, lines: Sequence[bytes]) -> bool:
        """Hand all lines on; False when some are lost. A journal that is full is waited for, a moment in all."""
        self._socket.settimeout(FULL_SECONDS)
        left = [line for line in lines if not self._sent(line)]
        return self._instead.put(left) if left else True

    def close(self) -> None:
        """Nothing follows."""
        self._socket.close()

    def _sent(self, line: bytes) -> bool:
        try:
            entry = entry_of(orjson.loads(line))
            try:
                self._socket.sendto(entry, self._address)
            except OSError as error:
                if error.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
                    raise
                self._send_file(entry)
        except TimeoutError:  # it is full: what follows may come in, but is not waited for
            self._socket.setblocking(False)
            return False
        except (OSError, ValueError):  # there is no journal, or it is full still; a line that is no event
            return False
        return True

    def _send_file(self, entry: bytes) -> None:
        """An entry that is too large for a datagram: as a file in memory, sealed, so that nobody can change it."""
        fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(entry)
            while view:
                view = view[os.write(fd, view) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([], [rights], 0, self._address)  # Python's send_fds takes no notice of an address
        finally:
            os.close(fd)
