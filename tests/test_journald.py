"""Events as entries of the journal: its protocol, read by a parser of its own; what is refused goes to stderr."""

import json
import mmap
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.journald import Journal, entry_of, leads_to_journal, name_of
from supervisor.sinks import Descriptor


def parsed(entry: bytes) -> list[tuple[str, str]]:
    """The fields of an entry, as the journal takes them."""
    fields = []
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        fields.append((name.decode(), value.decode()))
        entry = rest
    return fields


def test_an_event_is_an_entry() -> None:
    event = {"event": "channel.gone", "level": "warning", "timestamp": "now", "channel": "a", "ms": 1.5, "cause": None}
    assert dict(parsed(entry_of({**event, "text": "two\nPRIORITY=0\nlines", "ids": [1, 2]}))) == {
        "MESSAGE": "channel.gone",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "agentd",
        "CHANNEL": "a",
        "MS": "1.5",
        "CAUSE": "null",
        "TEXT": "two\nPRIORITY=0\nlines",
        "IDS": "[1,2]",
    }


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("request_id", "REQUEST_ID"),
        ("a-b.c", "A_B_C"),
        ("_pid", "AGENTD_PID"),
        ("9lives", "AGENTD_9LIVES"),
        ("message", "AGENTD_MESSAGE"),
        ("code_line", "AGENTD_CODE_LINE"),
        ("priority", "AGENTD_PRIORITY"),
        ("unit", "AGENTD_UNIT"),
        ("日", "AGENTD_"),
        ("", "AGENTD_"),
        ("x" * 100, "X" * 64),
    ],
)
def test_names(key: str, name: str) -> None:
    assert name_of(key) == name


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.text(), st.lists)))
def test_no_event_makes_a_field_of_a_value(event: dict[str, Any]) -> None:
    fields = parsed(entry_of(event))
    assert len(fields) == 3 + len(event.keys() - {"event", "level", "timestamp"})
    assert [name for name, _ in fields[:3]] == ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"]
    for name, _ in fields[3:]:
        assert name.isascii()
        assert name[0].isalpha()
        assert name not in {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"}


class Desk:
    """A journal of our own, and the stderr behind it."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "journal")
        self.end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.reader, self.out = os.pipe()
        os.set_blocking(self.reader, False)
        self.journal = Journal(Descriptor(self.out), self.address)

    def listen(self) -> None:
        self.end.bind(self.address)
        self.end.setblocking(False)

    def close(self) -> None:
        self.journal.close()
        self.end.close()
        os.close(self.reader)
        os.close(self.out)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def line(**event: Any) -> bytes:
    return json.dumps(event).encode() + b"\n"


def test_lines_come_as_entries(desk: Desk) -> None:
    desk.listen()
    assert desk.journal.put([line(event="one", channel="a"), line(event="two", level="error")])
    assert dict(parsed(desk.end.recv(9999)))["CHANNEL"] == "a"
    assert dict(parsed(desk.end.recv(9999)))["PRIORITY"] == "3"


def test_a_large_entry_comes_in_a_sealed_file(desk: Desk) -> None:
    desk.listen()
    text = "x" * 5_000_000
    assert desk.journal.put([line(event="large", text=text)])
    data, fds, _, _ = socket.recv_fds(desk.end, 100, 1)
    assert data == b""
    try:
        assert dict(parsed(os.pread(fds[0], 6_000_000, 0)))["TEXT"] == text
        with pytest.raises(OSError, match="not permitted"):
            os.write(fds[0], b"more")
        with pytest.raises((OSError, PermissionError)):
            mmap.mmap(fds[0], 100)
    finally:
        os.close(fds[0])


def test_without_a_journal_lines_go_to_stderr(desk: Desk) -> None:
    lines = [line(event="one"), line(event="two"), b"no event\n"]
    assert desk.journal.put(lines)
    assert os.read(desk.reader, 9999) == b"".join(lines)
    desk.listen()
    assert desk.journal.put([line(event="three")])  # it is there now
    assert dict(parsed(desk.end.recv(9999)))["MESSAGE"] == "three"


def test_a_full_journal_is_not_waited_for(desk: Desk) -> None:
    desk.listen()
    lines = [line(event="many", number=n) for n in range(500)]
    assert desk.journal.put(lines)
    beside = os.read(desk.reader, 1_000_000).splitlines(keepends=True)
    sent = 0
    with pytest.raises(BlockingIOError):
        while desk.end.recv(9999):
            sent += 1
    assert 0 < sent < 500
    assert beside == lines[sent:]


def test_the_journal_is_where_the_manager_says() -> None:
    reader, out = os.pipe()
    status = os.fstat(out)
    try:
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert leads_to_journal(environ, out)
        assert environ == {}
        assert not leads_to_journal({"JOURNAL_STREAM": f"{status.st_dev}:1"}, out)
        assert not leads_to_journal({}, out)
        assert not leads_to_journal({"JOURNAL_STREAM": "x"}, -1)
    finally:
        os.close(reader)
        os.close(out)
