"""Sockets that a service manager opened, as descriptors: which are taken, which are refused, what they count as."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from supervisor.addresses import Address
from supervisor.listener import inherit, settings_of, url_of
from supervisor.settings import Settings, load
from supervisor.sources import SettingsError

FIRST = 700  # far from what this process has open


def tcp(host: str = "127.0.0.1", family: int = socket.AF_INET) -> socket.socket:
    return socket.create_server((host, 0), family=family)


class Left:
    """Descriptors as a manager leaves them."""

    def __init__(self) -> None:
        self.count = 0
        self.opened = ExitStack()

    def put(self, opened: socket.socket) -> None:
        with opened:
            os.dup2(opened.fileno(), FIRST + self.count, inheritable=True)
        self.count += 1

    def take(self, **changes: str) -> list[socket.socket]:
        environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(self.count), "LISTEN_FDNAMES": "a:b:c", **changes}
        try:
            return [self.opened.enter_context(one) for one in inherit(environ, FIRST)]
        finally:
            assert environ == {}


@pytest.fixture
def left() -> Iterator[Left]:
    left = Left()
    with left.opened:
        yield left
    for fd in range(FIRST, FIRST + left.count):
        try:
            os.close(fd)
        except OSError:
            continue


def test_all_kinds_are_taken_and_no_child_gets_them(left: Left, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    for one in (tcp(), tcp("::1", socket.AF_INET6), listener):
        left.put(one)
    taken = left.take()
    assert [one.fileno() for one in taken] == [FIRST, FIRST + 1, FIRST + 2]
    assert not any(one.get_inheritable() or one.getblocking() for one in taken)
    ports = [one.getsockname()[1] for one in taken[:2]]
    assert [url_of(one) for one in taken] == [
        f"http://127.0.0.1:{ports[0]}",
        f"http://[::1]:{ports[1]}",
        f"unix:{path}",
    ]
    settings = load(settings_of(taken)).settings
    assert settings.addresses == (Address("127.0.0.1", ports[0]), Address("::1", ports[1]))


def test_an_abstract_name_is_shown(left: Left) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0agentd-test-{os.getpid()}")
    listener.listen()
    left.put(listener)
    [taken] = left.take()
    assert url_of(taken) == f"unix:@agentd-test-{os.getpid()}"
    assert load(settings_of([taken])).settings.has_to_be_protected is False


@pytest.mark.parametrize(
    "changes", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "0"}, {"LISTEN_FDS": "x"}, {"LISTEN_FDS": ""}]
)
def test_what_is_not_for_us_is_left_alone(left: Left, changes: dict[str, str]) -> None:
    left.put(tcp())
    assert left.take(**changes) == []
    assert os.get_inheritable(FIRST)


def datagram() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind(("127.0.0.1", 0))
    return opened


def connected() -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours


@pytest.mark.parametrize("unfit", [datagram, lambda: socket.socket(socket.AF_INET), connected])
def test_what_does_not_listen_for_streams_is_refused(left: Left, unfit) -> None:
    left.put(tcp())
    left.put(unfit())
    with pytest.raises(SettingsError, match=r"LISTEN_FDS \(socket activation\): descriptor 701 \(b\) cannot be served"):
        left.take()


def test_a_descriptor_that_is_not_there_is_refused(left: Left) -> None:
    left.put(tcp())
    with pytest.raises(SettingsError, match=r"descriptor 701 \(b\) cannot be served: Bad file descriptor"):
        left.take(LISTEN_FDS="2")


@pytest.mark.parametrize(("host", "family"), [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)])
def test_beyond_loopback_it_has_to_be_protected(
    left: Left, host: str, family: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in list(os.environ):
        if name.startswith("AGENTD_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AGENTD_STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for one in (tcp(), tcp(host, family)):
        left.put(one)
    layer = settings_of(left.take())
    with pytest.raises(SettingsError, match=r"LISTEN_FDS=.* \(socket activation\): listening beyond loopback, at "):
        load(layer)
    monkeypatch.setenv("AGENTD_TOKEN", "t" * 20)
    assert load(layer).settings.has_to_be_protected


def test_they_win_over_all_settings(left: Left, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTD_LISTEN", "0.0.0.0:1,127.0.0.1:2")
    left.put(tcp())
    taken = left.take()
    settings: Settings = load(settings_of(taken)).settings
    assert settings.addresses == (Address("127.0.0.1", taken[0].getsockname()[1]),)
    assert settings_of([]) == {}
