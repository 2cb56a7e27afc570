"""The file of keys: changed by commands, followed by a server."""

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from supervisor import file_stamp
from supervisor import keys as module
from supervisor.auth import ANYBODY, MASTER, KeyRow, KeysError, Principal, Scope
from supervisor.keys import KeyFile, Keyring, new_key

GARBAGE = [b"{", b"[]", b'{"version": 2, "keys": []}', b"\xff"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def added(path: Path, **bound: Any) -> tuple[bytes, Principal]:
    text, row = new_key(scopes=[Scope.TURNS], **bound)
    KeyFile(path).add(row)
    return text.encode(), row.principal


def events(logs: list[Any]) -> list[str]:
    return [line["event"] for line in logs]


@pytest.fixture(params=["settled", "fresh"])
def settled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files count as old from the beginning, or never."""
    monkeypatch.setattr(file_stamp, "SETTLE_NS", -(10**18) if request.param == "settled" else 10**18)
    yield


# ---------------------------------------------------------------------- the commands' side


def test_new_keys_differ() -> None:
    made = [new_key(scopes=[Scope.OPS]) for _ in range(50)]
    assert len({text for text, _ in made}) == len({row.digest for _, row in made}) == 50
    assert abs(made[0][1].created_at - int(module.time.time())) <= 1


def test_add_list_and_revoke(path: Path) -> None:
    file = KeyFile(path)
    assert file.rows() == ()
    assert not file.revoke("00000000")
    assert list(path.parent.glob("keys*")) == []
    rows = []
    for user in ("", "alice"):
        _, row = new_key(user=user, scopes=[Scope.TURNS])
        file.add(row)
        rows.append(row)
    assert file.rows() == tuple(rows)
    with pytest.raises(KeysError, match=f"there is a key {rows[0].id} already"):
        file.add(rows[0])
    assert file.revoke(rows[0].id)
    assert not file.revoke(rows[0].id)
    assert file.rows() == (rows[1],)
    assert file.revoke(rows[1].id)
    assert (file.rows(), path.exists()) == ((), True)
    assert {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.glob("*keys*")} == {
        "keys.json": 0o600,
        "keys.json.lock": 0o600,
    }


def test_the_readers_of_a_file_stay(path: Path) -> None:
    added(path)
    path.chmod(0o640)
    added(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_of_a_file_stays(path: Path) -> None:
    added(path)
    os.chown(path, 4711, 4712)
    added(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)


def test_many_at_once_lose_nothing(path: Path) -> None:
    threads = [threading.Thread(target=added, args=(path,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(KeyFile(path).rows()) == 20


def test_one_who_holds_the_lock_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.05)
    with open(path.with_name("keys.json.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(KeysError, match="another command has held the lock"):
            added(path)
    assert not path.exists()


def test_a_disk_that_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        added(path)
    assert (path.read_bytes(), len(list(path.parent.glob(".keys*")))) == (before, 0)


def unusable(path: Path) -> dict[str, Any]:
    """Ways to make a file unusable, and what is told."""
    return {
        "group": (lambda: path.chmod(0o620), "others may write it (mode 0620)"),
        "others": (lambda: path.chmod(0o602), "others may write it (mode 0602)"),
        "large": (lambda: path.write_bytes(b" " * (module.MAX_FILE + 1)), "more than 1048576 bytes"),
        "json": (lambda: path.write_bytes(b"{"), "line 1, column 2"),
        "folder": (lambda: (path.unlink(), path.mkdir()), "not a regular file"),
        "fifo": (lambda: (path.unlink(), os.mkfifo(path)), "not a regular file"),
        "loop": (lambda: (path.unlink(), path.symlink_to(path)), "Too many levels of symbolic links"),
    }


@pytest.mark.parametrize("way", unusable(Path()))
def test_files_that_will_not_do(path: Path, way: str) -> None:
    secret, principal = added(path)
    keyring = Keyring(path, None)
    make, told = unusable(path)[way]
    make()
    with pytest.raises((KeysError, OSError)) as caught:
        added(path)
    assert told in str(caught.value)
    with pytest.raises((KeysError, OSError)):
        KeyFile(path).revoke(principal.name)
    with pytest.raises(KeysError, match=r"the file of keys .* cannot be used: ") as caught:
        Keyring(path, None)
    assert told in str(caught.value)
    with capture_logs() as logs:
        for _ in range(3):
            assert keyring.principal(secret) == principal
    assert (events(logs), logs[0]["log_level"], logs[0]["keys"]) == (["keys.unreadable"], "error", 1)
    assert told in logs[0]["error"]


def test_a_link_is_read_and_not_replaced(path: Path) -> None:
    secret, principal = added(path)
    link = path.with_name("link.json")
    link.symlink_to(path)
    assert Keyring(link, None).principal(secret) == principal
    with pytest.raises(KeysError, match="symbolic link"):
        added(link)
    assert link.is_symlink()


def test_a_file_cannot_grow_too_large_to_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE", 600)
    with pytest.raises(KeysError, match="at most 600 are allowed"):
        for _ in range(10):
            added(path)
    assert len(KeyFile(path).rows()) >= 1


# ---------------------------------------------------------------------- the server's side


def test_open_until_a_file_is_seen(path: Path, settled: None) -> None:
    keyring = Keyring(path, None)
    assert (keyring.open, keyring.principal(None), keyring.principal(b"any")) == (True, ANYBODY, ANYBODY)
    secret, principal = added(path, user="alice", graph="g")
    assert keyring.principal(None) is None
    assert not keyring.open
    assert keyring.principal(secret) == principal == Principal(principal.name, "alice", "g", frozenset({Scope.TURNS}))
    assert KeyFile(path).revoke(principal.name)
    assert (keyring.principal(secret), keyring.principal(None), keyring.open) == (None, None, False)


def test_the_token_is_the_master(path: Path) -> None:
    keyring = Keyring(path, "t0ken")
    assert not keyring.open
    assert keyring.principal(b"t0ken") is MASTER
    for secret in (None, b"", b"t0ke", b"t0kenx", b"\xff"):
        assert keyring.principal(secret) is None
    secret, principal = added(path)
    assert (keyring.principal(secret), keyring.principal(b"t0ken")) == (principal, MASTER)
    path.write_bytes(b"{")
    assert keyring.principal(b"t0ken") is MASTER


def test_one_that_is_never_open(path: Path) -> None:
    keyring = Keyring(path, None, closed=True)
    assert (keyring.open, keyring.principal(None), keyring.principal(b"x")) == (False, None, None)


@pytest.mark.parametrize("data", [None, b"", b"\n", b'{"version": 1, "keys": []}'])
@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_is_gone_or_empty_has_no_keys(path: Path, settled: None, data: bytes | None, known: bool) -> None:
    keyring = Keyring(path, None)
    secret, _ = added(path)
    if known:
        assert keyring.principal(secret)
    else:
        keyring.look()
    with capture_logs() as logs:
        path.unlink() if data is None else path.write_bytes(data)
        for _ in range(3):
            assert (keyring.principal(secret), keyring.principal(None), keyring.open) == (None, None, False)
    assert events(logs) == (["keys.gone"] if data is None else ["keys.read"])
    again, principal = added(path)
    assert keyring.principal(again) == principal


@pytest.mark.parametrize("data", GARBAGE)
def test_of_a_file_that_was_spoilt_the_last_good_keys_count(path: Path, settled: None, data: bytes) -> None:
    secret, principal = added(path)
    keyring = Keyring(path, None)
    path.write_bytes(data)
    with capture_logs() as logs:
        for _ in range(3):
            assert (keyring.principal(secret), keyring.principal(b"x")) == (principal, None)
    assert events(logs) == ["keys.unreadable"]
    path.write_bytes(data + data)
    with capture_logs() as logs:
        assert keyring.principal(secret) == principal
    assert events(logs) == ["keys.unreadable"]
    path.unlink()
    assert keyring.principal(secret) is None


@pytest.mark.parametrize("data", GARBAGE)
def test_an_open_server_is_closed_by_a_file_that_will_not_do(path: Path, data: bytes) -> None:
    keyring = Keyring(path, None)
    path.write_bytes(data)
    assert (keyring.principal(None), keyring.open) == (None, False)
    path.unlink()
    assert (keyring.principal(None), keyring.open) == (None, False)


def test_a_file_that_could_not_be_opened_for_once_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_stamp, "SETTLE_NS", -(10**18))
    secret, principal = added(path)
    keyring = Keyring(path, None)
    KeyFile(path).revoke(principal.name)
    true_open = os.open

    def without_descriptors(*_: Any, **__: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", without_descriptors)
    with capture_logs() as logs:
        assert keyring.principal(secret) == keyring.principal(secret) == principal
    assert events(logs) == ["keys.unreadable"]
    monkeypatch.setattr(os, "open", true_open)
    assert keyring.principal(secret) is None


def test_it_is_read_when_it_has_changed_and_not_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_stamp, "SETTLE_NS", -(10**18))
    secret, principal = added(path)
    reads = []
    true_parse = module.parse
    monkeypatch.setattr(module, "parse", lambda data: reads.append(data) or true_parse(data))
    keyring = Keyring(path, None)
    for _ in range(5):
        assert keyring.principal(secret) == principal
    assert len(reads) == 1
    old = path.stat()
    other = KeyRow("00000000", "0" * 64, "", None, frozenset({Scope.TURNS}), 1)
    path.write_bytes(module.dump([other]))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))  # nobody sees it by the modification time
    assert keyring.principal(secret) is None
    assert len(reads) == 2


def test_no_key_is_in_the_log(path: Path) -> None:
    with capture_logs() as logs:
        secret, _ = added(path)
        keyring = Keyring(path, None)
        path.write_bytes(secret)
        keyring.principal(secret)
        path.write_bytes(b'{"' + secret + b'": 1}')
        keyring.principal(secret)
    assert events(logs) == ["keys.read", "keys.unreadable", "keys.unreadable"]
    assert secret.decode()[20:] not in str(logs)
