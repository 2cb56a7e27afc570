"""Addresses of stores: what is taken, what is refused, what is shown."""

import re
from pathlib import Path

import pytest

from supervisor.setting_types import SecretUrl, store_url
from supervisor.settings import Settings, SettingsError, in_words, load
from supervisor.store.address import PostgresDatabase, SqliteFile, parse_address


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/var/lib/agentd/store.db", "/var/lib/agentd/store.db"),
        ("store.db", "{here}/store.db"),
        ("~/store.db", "{home}/store.db"),
        ("sqlite:///store.db", "{here}/store.db"),
        ("sqlite:////var/store.db", "/var/store.db"),
        ("/odd?x=1&%41 name.db", "/odd?x=1&%41 name.db"),
    ],
)
def test_files(text: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_address(text) == SqliteFile(Path(path.format(here=tmp_path, home=Path.home())))


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        (
            "postgresql://ada:p%40ss@db.example.org:5433/agentd",
            PostgresDatabase("db.example.org", 5433, "ada", "p@ss", "agentd", {}),
            "postgresql://ada:********@db.example.org:5433/agentd",
        ),
        ("postgres://db/x", PostgresDatabase("db", None, None, None, "x", {}), "postgresql://db/x"),
        (
            "postgresql://ada@/agentd?host=/run/postgresql",
            PostgresDatabase("/run/postgresql", None, "ada", None, "agentd", {}),
            "postgresql://ada@/run/postgresql/agentd",
        ),
        (
            "postgresql://[::1]:5432/x?sslmode=require",
            PostgresDatabase("::1", 5432, None, None, "x", {"ssl": "require"}),
            "postgresql://[::1]:5432/x?ssl=require",
        ),
    ],
)
def test_databases(text: str, expected: PostgresDatabase, shown: str) -> None:
    address = parse_address(text)
    assert (address, str(address)) == (expected, shown)
    assert "p@ss" not in repr(address)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "takes the path of that file"),
        (":memory:", "takes the path of that file"),
        ("file:x?mode=memory", "takes the path of that file"),
        ("/folder/", "takes the path of that file"),
        ("a\0b", "takes the path of that file"),
        ("~nobody-of-this-name/x", "home folder"),
        ("sqlite://store.db", "third slash"),
        ("mysql://hush@host/x", "allowed: a path"),
        ("postgresql://hush@host", "user:password@host/database"),
        ("postgresql://hush@host/", "user:password@host/database"),
        ("postgresql://hush@host/a/b", "user:password@host/database"),
        ("postgresql://hush@host:99999/a", "percent-encoded"),
        ("postgresql://u:hu/sh@host/a", "percent-encoded"),
        ("postgresql://hush@host/a?sslmod=require", "unknown option 'sslmod'; allowed: host, ssl, sslmode"),
        ("postgresql://hush@host/a?sslmode", "percent-encoded"),
    ],
)
def test_what_is_no_address(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        parse_address(text)
    assert "hush" not in str(caught.value)


def test_the_setting_shows_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTD_STORE", "postgresql://u:hush@host/a")
    settings = load().settings
    assert settings.store_url.get_secret_value() == "postgresql://u:hush@host/a"
    assert in_words(settings, "store_url") == str(settings.store_url) == "postgresql://u:********@host/a"
    assert "hush" not in repr(settings)
    monkeypatch.setenv("AGENTD_STORE", "postgresql://u:hush@host")
    with pytest.raises(SettingsError) as caught:
        load()
    assert "hush" not in str(caught.value)


def test_the_setting_is_a_file_in_the_state_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(state_dir=tmp_path).store_url == store_url(tmp_path / "store.db")
    monkeypatch.chdir(tmp_path)
    assert store_url("x.db").get_secret_value() == f"sqlite:///{tmp_path}/x.db"
    assert len({store_url("x.db"), store_url("x.db"), SecretUrl("y", "y")}) == 2
