"""Settings: names, types, precedence, messages; the documentation of all that."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as sampled
from hypothesis import strategies as st
from pydantic import ValidationError

from supervisor import serve as serving
from supervisor import sources
from supervisor.addresses import Address, parse_listen
from supervisor.cli import serve as serve_command
from supervisor.cli.serve import read
from supervisor.property import Injection
from supervisor.setting_types import is_loopback, size_text
from supervisor.settings import LIVE, MASK, Settings, describe, in_words, load
from supervisor.sources import Given, SettingsError

DOCS = Path(__file__).parents[1] / "docs" / "settings.md"
FIELDS = Settings.model_fields


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty working folder and an environment without settings."""
    names = {name for field in (*FIELDS, "listen") for name in sources.variables_of(field)}
    for name in os.environ:
        if name in names or name.startswith("AGENTD_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_documentation_has_what_a_reload_changes() -> None:
    told = DOCS.read_text().partition("## Reload\n")[2].partition("\n## ")[0]
    listed = re.findall(r"`(\w+)`", told.partition("from then on:")[2].partition(".\n")[0])
    assert listed == [name for name in FIELDS if name in LIVE]
    assert set(FIELDS) > LIVE


def test_settings_follow_others() -> None:
    settings = Settings(workers_max=1, turn_seconds=7.0)
    other = Settings(workers_max=2, port=1, token="secret", max_gemini_worker_count=5)
    assert settings.follow(other) == (
        ["workers_max", "max_gemini_worker_count", "graph_limits", "turn_seconds"],
        ["port", "token"],
    )
    assert (settings.workers_max, settings.turn_seconds, settings.port, settings.token) == (2, 600.0, 8080, None)
    assert settings.graph_limits == {"*gemini*": 5}
    assert settings.follow(other) == ([], ["port", "token"])
    with pytest.raises(ValidationError):
        settings.workers_max = 3


def refused(*arguments: str, **options: str | None) -> Any:
    with pytest.raises(SettingsError) as caught:
        load(*arguments, **options)
    return str(caught.value)


def test_defaults_of_the_contract(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    settings = load().settings
    repository = Path(__file__).parents[1]
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.state_dir == Path("/run/user/7/agentd")
    assert settings.log_path == Path("/run/user/7/agentd/logs")
    assert settings.keys_file == Path("/run/user/7/agentd/keys.json")
    assert settings.app_dir == repository
    assert settings.property_file == repository / "property.json"
    assert settings.addons_dir == repository / "ten_packages" / "extension"
    assert (settings.workers_max, settings.worker_quit_timeout_seconds) == (100, 60)
    assert settings.graph_limits == {"*gemini*": 3}
    assert settings.worker_open_files == 4096
    assert settings.worker_memory_bytes is None
    assert (settings.token, settings.overridable, settings.worker_env, settings.worker_command) == (
        None,
        None,
        (),
        None,
    )
    assert settings.vector_document_preset_list == "[]"
    with pytest.raises(ValidationError):
        settings.port = 1


def test_state_dir_without_a_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Settings().state_dir == Path("/run/agentd")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Settings().state_dir == Path("/home/somebody/.local/state/agentd")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_RUNTIME_DIR", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    monkeypatch.setattr(Path, "home", homeless)
    assert refused().startswith("AGENTD_STATE_DIR (default): has to be set: there is no HOME")
    monkeypatch.setenv("AGENTD_STATE_DIR", "state")
    assert load().settings.state_dir == folder / "state"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that is not there")
@pytest.mark.parametrize("arguments", [("serve",), ("doctor",), ("doctor", "--json")])
def test_a_user_that_is_not_there(folder: Path, arguments: Any) -> None:
    folder.chmod(0o755)
    # All is imported before: that user may not be allowed to read the source.
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r});"
        "import os, supervisor.cli.serve, supervisor.cli.app, supervisor.cli.doctor; from supervisor.cli import main;"
        "os.setuid(4_000_000); sys.exit(main(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={"PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "AGENTD_STATE_DIR" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_working_folder_with_a_property_file_is_the_app(folder: Path) -> None:
    (folder / "property.json").write_text("{}")
    settings = Settings()
    assert (settings.app_dir, settings.property_file) == (folder, folder / "property.json")


def test_precedence(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    places = ("--workers-max", "WORKERS_MAX", ".env", "agentd.toml", None)

    def outcome() -> Any:
        loaded = load(flags)
        one = loaded.given.get("workers_max")
        return loaded.settings.workers_max, one and (one.name, one.source)

    (folder / "agentd.toml").write_text("workers_max = 4")
    (folder / ".env").write_text("WORKERS_MAX=3\n")
    monkeypatch.setenv("WORKERS_MAX", "2")
    flags = {"workers_max": Given("1", "--workers-max", sources.COMMAND_LINE)}
    seen = [outcome()]
    flags = {}
    seen.append(outcome())
    monkeypatch.delenv("WORKERS_MAX")
    seen.append(outcome())
    (folder / ".env").unlink()
    seen.append(outcome())
    (folder / "agentd.toml").unlink()
    seen.append(outcome())
    assert len(seen) == len(places)
    assert seen == [
        (1, ("--workers-max", "command line")),
        (2, ("WORKERS_MAX", "environment")),
        (3, ("WORKERS_MAX", ".env")),
        (4, ("workers_max", "agentd.toml")),
        (100, None),
    ]


GOOD = [
    ("SERVER_PORT", "9000", "port", 9000),
    ("SERVER_PORT", "", "port", 8080),
    ("WORKERS_MAX", "", "workers_max", 100),
    ("WORKER_QUIT_TIMEOUT_SECONDES", "7", "worker_quit_timeout_seconds", 7),
    ("WORKER_START_TIMEOUT_SECONDS", "0.5", "worker_start_timeout_seconds", 0.5),
    ("WORKER_STOP_GRACE_SECONDS", "0", "worker_stop_grace_seconds", 0.0),
    ("LOG_PATH", "logs", "log_path", Path("logs")),
    ("LOG_STDOUT", "T", "log_stdout", True),
    ("LOG_STDOUT", "0", "log_stdout", False),
    ("AGENTD_LOG_LEVEL", "DEBUG", "log_level", "debug"),
    ("AGENTD_UNKNOWN_ADDONS", "skip", "unknown_addons", "skip"),
    ("AGENTD_GRAPH_LIMITS", "camera_*=2, friday = 0", "graph_limits", {"*gemini*": 3, "camera_*": 2, "friday": 0}),
    ("AGENTD_KEYS_FILE", "keys.json", "keys_file", Path("keys.json")),
    ("AGENTD_GRAPH_LIMITS", "*gemini*=9", "graph_limits", {"*gemini*": 9}),
    ("MAX_GEMINI_WORKER_COUNT", "5", "graph_limits", {"*gemini*": 5}),
    ("AGENTD_WORKER_COMMAND", "run 'a b' {property_file}", "worker_command", ("run", "a b", "{property_file}")),
    ("AGENTD_WORKER_COMMAND", "", "worker_command", None),
    ("AGENTD_WORKER_ENV", "A_*, B", "worker_env", ("A_*", "B")),
    ("AGENTD_OVERRIDABLE", "", "overridable", ()),
    ("AGENTD_OVERRIDABLE", "llm.*", "overridable", ("llm.*",)),
    ("AGENTD_INJECTIONS", "a.p=port,b.c=bot_uid:str", "injections",
     (Injection("a", "p", "port"), Injection("b", "c", "bot_uid", as_string=True))),
    ("AGENTD_ALLOWED_HOSTS", "Agentd, *.Example.org", "allowed_hosts", ("agentd", "*.example.org")),
    ("AGENTD_ALLOWED_HOSTS", "*", "allowed_hosts", ("*",)),
    ("AGENTD_ALLOWED_HOSTS", "", "allowed_hosts", ()),
    ("AGENTD_HEAD_SECONDS", "0.5", "head_seconds", 0.5),
    ("AGENTD_UPLOAD_TOTAL_BYTES", "1GiB", "upload_total_bytes", 1024**3),
    ("AGENTD_BODY_LIMIT_BYTES", "1KiB", "body_limit_bytes", 1024),
    ("AGENTD_WORKER_MEMORY_BYTES", "512 MiB", "worker_memory_bytes", 512 * 1024**2),
    ("AGENTD_WORKER_OPEN_FILES", "", "worker_open_files", None),
    ("AGENTD_CONTAINMENT", "sweep", "containment", "sweep"),
    ("AGENTD_DEFAULT_GRAPH", "va", "default_graph", "va"),
    ("AGENTD_DEFAULT_GRAPH", "", "default_graph", None),
    ("VECTOR_DOCUMENT_PRESET_LIST", '[{"a":1}]', "vector_document_preset_list", '[{"a":1}]'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "field", "expected"), GOOD)
def test_values_that_are_allowed(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, value: str, field: str, expected: Any
) -> None:
    monkeypatch.setenv(name, value)
    loaded = load()
    got = getattr(loaded.settings, field)
    assert got == (folder / expected if isinstance(expected, Path) else expected)
    assert not loaded.warnings


BAD = [
    ("WORKERS_MAX", "0"),
    ("WORKERS_MAX", "-1"),
    ("WORKERS_MAX", "many"),
    ("WORKERS_MAX", "1.0"),
    ("WORKERS_MAX", "1_0"),
    ("WORKERS_MAX", "٣"),
    ("WORKERS_MAX", "9" * 5000),
    ("WORKER_QUIT_TIMEOUT_SECONDS", "0"),
    ("WORKER_QUIT_TIMEOUT_SECONDES", "-5"),
    ("WORKER_START_TIMEOUT_SECONDS", "0"),
    ("WORKER_START_TIMEOUT_SECONDS", "nan"),
    ("WORKER_STOP_GRACE_SECONDS", "inf"),
    ("SERVER_PORT", "65536"),
    ("SERVER_PORT", "http"),
    ("AGENTD_LISTEN", "8080"),
    ("AGENTD_LISTEN", ":8080"),
    ("AGENTD_LISTEN", "::1:80"),
    ("AGENTD_LISTEN", "127.0.0.1:99999"),
    ("AGENTD_LISTEN", "a b:80"),
    ("AGENTD_LISTEN", ""),
    ("AGENTD_LISTEN", "a..b:80"),
    ("AGENTD_LISTEN", "0.0.0.0:80"),
    ("AGENTD_APP_DIR", "/does/not/exist"),
    ("AGENTD_PROPERTY", ""),
    ("AGENTD_STATE_DIR", "~nobody-of-this-name/x"),
    ("AGENTD_LOG_FORMAT", "xml"),
    ("AGENTD_LOG_LEVEL", ""),
    ("AGENTD_GRAPH_LIMITS", "a"),
    ("AGENTD_GRAPH_LIMITS", "a=-1"),
    ("AGENTD_GRAPH_LIMITS", "=1"),
    ("AGENTD_INJECTIONS", "a=port"),
    ("AGENTD_INJECTIONS", "a.b=pid"),
    ("AGENTD_INJECTIONS", "a.b=port:int"),
    ("AGENTD_WORKER_COMMAND", "tman 'run"),
    ("AGENTD_BODY_LIMIT_BYTES", "8 parsecs"),
    ("AGENTD_BODY_LIMIT_BYTES", "0"),
    ("AGENTD_WORKER_CPU_WEIGHT", "10001"),
    ("AGENTD_ALLOW_UNPROTECTED", "perhaps"),
    ("AGENTD_ALLOWED_HOSTS", "agentd:8080"),
    ("AGENTD_ALLOWED_HOSTS", "http://agentd"),
    ("AGENTD_ALLOWED_HOSTS", "[::1]"),
    ("AGENTD_HEAD_SECONDS", "0"),
    ("AGENTD_CONNECTIONS_MAX", "0"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_values_that_are_not(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    message = refused()
    assert message.startswith(f"{name}={value!r}"[:150])
    assert "(environment)" in message
    assert "allowed" in message
    assert len(message) < 500


def test_all_problems_are_told_at_once_and_secrets_masked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("AGENTD_TOKEN", "two words")
    (folder / ".env").write_text("WORKERS_MAX=none\n")
    (folder / "agentd.toml").write_text("beat_seconds = true\nagora_app_certificate = 5\n")
    with pytest.raises(SettingsError) as caught:
        load()
    assert {(one.name, one.source, one.value) for one in caught.value.problems} == {
        ("AGENTD_TOKEN", "environment", MASK),
        ("WORKERS_MAX", ".env", "'none'"),
        ("beat_seconds", "agentd.toml", "True"),
        ("agora_app_certificate", "agentd.toml", MASK),
    }
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "field", "default"),
    [("LOG_STDOUT", "log_stdout", False), ("MAX_GEMINI_WORKER_COUNT", "max_gemini_worker_count", 3)],
)
@pytest.mark.parametrize("value", ["yes", "-1"])
def test_what_ten_forgives_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str, default: Any, value: str
) -> None:
    monkeypatch.setenv(name, value)
    loaded = load()
    assert getattr(loaded.settings, field) == default
    assert field not in loaded.given
    [warning] = loaded.warnings
    assert warning.startswith(f"{name}={value!r}")


def test_forgiven_values_do_not_hide_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_STDOUT", "yes")
    monkeypatch.setenv("WORKERS_MAX", "0")
    assert "LOG_STDOUT" not in refused()
    monkeypatch.setenv("WORKERS_MAX", "1")
    monkeypatch.setenv("AGENTD_LISTEN", "[::]:80")
    assert refused().startswith("AGENTD_LISTEN='[::]:80' (environment): listening beyond loopback")


def test_a_file_of_keys_protects(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("AGENTD_LISTEN", "0.0.0.0:80")
    monkeypatch.setenv("AGENTD_KEYS_FILE", "keys.json")
    assert "or make a key with `agentd keys add`" in refused()
    (folder / "keys.json").touch()
    settings = load().settings
    assert settings.has_to_be_protected
    assert not Settings(host="0.0.0.0", allow_unprotected=True).has_to_be_protected
    assert not Settings(also_listen="[::1]:80").has_to_be_protected


@pytest.mark.parametrize(
    "more",
    [{"AGENTD_TOKEN": "t0ps3cr3t"}, {"AGENTD_JWT_SECRET": 4 * "t0ps3cr3t"}, {"AGENTD_ALLOW_UNPROTECTED": "true"}],
)
def test_listening_beyond_loopback_has_to_be_protected(monkeypatch: pytest.MonkeyPatch, more: dict[str, str]) -> None:
    monkeypatch.setenv("AGENTD_LISTEN", "0.0.0.0:80")
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    loaded = load()
    assert (loaded.settings.host, loaded.settings.port) == ("0.0.0.0", 80)
    assert "t0ps3cr3t" not in repr(loaded.settings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        (" [::1]:80", Address("::1", 80)),
        ("agentd.example:0", Address("agentd.example", 0)),
        ("agentd.example.:1", Address("agentd.example.", 1)),
        (f"{'x' * 63}.y:1", Address(f"{'x' * 63}.y", 1)),
        (f"{'x' * 64}.y:1", None),
        (f"{'x.' * 127}:1", None),
        ("a..b:1", None),
        ("a b:1", None),
        ("[::g]:80", None),
        ("a:1,b:2", None),
        ("[127.0.0.1]:80", None),
        ("[::1:80", None),
        ("::1", None),
        ("x:", None),
        ("x:-1", None),
        ("x:٣", None),
        ("x:" + "0" * 9, None),
        (8080, None),
    ],
)
def test_listen(text: object, expected: Any) -> None:
    address = parse_listen(text)
    assert address == expected
    if isinstance(text, str) and address is not None:
        assert str(address) == text.strip()


def test_listen_and_server_port(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("AGENTD_LISTEN", "localhost:81")
    monkeypatch.setenv("SERVER_PORT", "82")
    assert (load().settings.host, load().settings.port) == ("localhost", 81)
    monkeypatch.delenv("AGENTD_LISTEN")
    (folder / ".env").write_text("AGENTD_LISTEN=[::1]:83\n")
    assert (load().settings.host, load().settings.port) == ("::1", 82)


HOME, OTHER, THIRD = "127.0.0.1:8080", "127.0.0.1:8090", "[::1]:7091"
NO_LISTEN = {"flags": (), "named": (), "environment": {}, "dotenv": "", "config": ""}
PLACES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, [HOME]),
    ({"flags": ["--listen", OTHER]}, [OTHER]),
    ({"flags": ["--listen", OTHER, "--listen", HOME]}, [OTHER, HOME]),
    ({"flags": ["--listen", f"{OTHER}, {HOME},", "--listen", THIRD]}, [OTHER, HOME, THIRD]),
    ({"flags": ["--listen", THIRD], "environment": {"AGENTD_LISTEN": f"{HOME},{OTHER}"}}, [THIRD]),
    ({"flags": ["--listen", THIRD, "--port", "1", "--also-listen", HOME]}, [THIRD]),
    ({"flags": ["--port", "1", "--also-listen", f"{HOME},{OTHER}"]}, ["127.0.0.1:1", HOME, OTHER]),
    ({"named": [f"listen={HOME},{OTHER}"]}, [HOME, OTHER]),
    ({"named": [f"AGENTD_LISTEN={OTHER},{HOME}"]}, [OTHER, HOME]),
    ({"named": [f"also_listen={OTHER}"]}, [HOME, OTHER]),
    ({"environment": {"AGENTD_LISTEN": f" {OTHER} ,{HOME}"}}, [OTHER, HOME]),
    ({"environment": {"AGENTD_LISTEN": OTHER}, "dotenv": f"AGENTD_LISTEN={HOME},{THIRD}"}, [OTHER]),
    ({"environment": {"AGENTD_LISTEN": "localhost:0,localhost:0"}}, ["localhost:0", "localhost:0"]),
    ({"environment": {"SERVER_PORT": "81"}, "dotenv": f"AGENTD_LISTEN={HOME},{THIRD}"}, ["127.0.0.1:81", THIRD]),
    ({"dotenv": f"AGENTD_LISTEN={HOME},{THIRD}", "config": f"listen = '{OTHER}'"}, [HOME, THIRD]),
    ({"config": f"listen = '{OTHER}'"}, [OTHER]),
    ({"config": f"listen = '{OTHER},{HOME}'"}, [OTHER, HOME]),
    ({"config": f"listen = ['{OTHER}']"}, [OTHER]),
    ({"config": f"listen = ['{OTHER}', '{THIRD}']\nport = 5\nalso_listen = '{HOME}'"}, [OTHER, THIRD]),
    ({"config": f"also_listen = ['{OTHER}', '{THIRD}']\nport = 5"}, ["127.0.0.1:5", OTHER, THIRD]),
]


def configured(folder: Path, monkeypatch: pytest.MonkeyPatch, places: dict[str, Any]) -> Any:
    """What `agentd serve` would be started with; each place says what it is given."""
    places = NO_LISTEN | places
    for name, value in places["environment"].items():
        monkeypatch.setenv(name, value)
    (folder / ".env").write_text(places["dotenv"])
    (folder / "agentd.toml").write_text(places["config"])
    served = []
    monkeypatch.setattr(serve_command, "listen", lambda _: socket.socket())  # the addresses are not this machine's
    monkeypatch.setattr(serving, "serve", lambda settings, *_, **__: served.append(settings) or 0)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    named = [word for item in places["named"] for word in ("--set", item)]
    assert serve_command.run([*places["flags"], *named]) == 0
    return served[0]


@pytest.mark.parametrize(("places", "expected"), PLACES)
def test_several_addresses(
    folder: Path, monkeypatch: pytest.MonkeyPatch, places: dict[str, Any], expected: list[str]
) -> None:
    settings = configured(folder, monkeypatch, places)
    assert [str(address) for address in settings.addresses] == expected
    assert settings.also_listen == settings.addresses[1:]
    assert (settings.host, settings.port) == (settings.addresses[0].host, settings.addresses[0].port)


@pytest.mark.parametrize(
    ("places", "told"),
    [
        ({"flags": ["--listen", HOME, "--listen", "8090"]}, "--listen='8090' (command line): allowed: host:port"),
        ({"flags": ["--listen", ""]}, "--listen='' (command line): allowed: host:port"),
        ({"named": ["also_listen=8090"]}, "--set also_listen='8090' (command line): allowed: host:port"),
        ({"environment": {"AGENTD_LISTEN": ","}}, "AGENTD_LISTEN=',' (environment): allowed: host:port"),
        ({"environment": {"AGENTD_LISTEN": f"{HOME},x y:1"}}, "AGENTD_LISTEN='x y:1' (environment): allowed: host:po"),
        ({"config": "listen = []"}, "listen=[] (agentd.toml): allowed: host:port"),
        ({"config": "listen = 8080"}, "listen=8080 (agentd.toml): allowed: host:port"),
        ({"config": f"listen = ['{HOME}', 8090]"}, "listen=8090 (agentd.toml): allowed: host:port"),
        ({"config": f"listen = ['{HOME},{OTHER}']"}, f"listen='{HOME},{OTHER}' (agentd.toml): allowed: host:port"),
        ({"config": "also_listen = {a = 1}"}, "also_listen={'a': 1} (agentd.toml): allowed: host:port"),
        (
            {"flags": ["--listen", OTHER, "--listen", OTHER]},
            f"--listen='{OTHER},{OTHER}' (command line): {OTHER} stands there twice",
        ),
        (
            {"environment": {"SERVER_PORT": "8090"}, "config": f"listen = ['{HOME}', '{THIRD}', '{OTHER}']"},
            f"listen='{HOME}, {THIRD}, {OTHER}' (agentd.toml): {OTHER} stands there twice, host and port counted",
        ),
        (
            {"environment": {"AGENTD_LISTEN": f"{HOME},[::]:90,10.0.0.1:0"}},
            f"AGENTD_LISTEN='{HOME},[::]:90,10.0.0.1:0' (environment): listening beyond loopback, at [::]:90, 10.0",
        ),
        (
            {"environment": {"AGENTD_LISTEN": "0.0.0.0:90, 127.0.0.1:90"}},
            "AGENTD_LISTEN='0.0.0.0:90, 127.0.0.1:90' (environment): listening beyond loopback, at 0.0.0.0:90, lets",
        ),
        (
            {"flags": ["--host", "0.0.0.0"], "config": f"listen = ['{HOME}', '{OTHER}']"},
            "--host='0.0.0.0' (command line): listening beyond loopback, at 0.0.0.0:8080, lets",
        ),
        (
            {"config": "also_listen = 'box.lan:1'"},
            "also_listen='box.lan:1' (agentd.toml): listening beyond loopback, at box.lan:1, lets",
        ),
    ],
)
def test_addresses_that_cannot_be_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, places: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        configured(folder, monkeypatch, places)
    assert str(caught.value).startswith(told)
    assert "allowed" in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("more", [{"AGENTD_TOKEN": "secret"}, {"AGENTD_ALLOW_UNPROTECTED": "true"}])
def test_several_addresses_beyond_loopback(folder: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, str]) -> None:
    settings = configured(folder, monkeypatch, {"environment": {"AGENTD_LISTEN": "0.0.0.0:80,[::]:80", **more}})
    assert settings.addresses == (Address("0.0.0.0", 80), Address("::", 80))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_loopback(host: str, expected: Any) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("AGENTD_LISTN", "AGENTD_LISTEN"),
        ("AGENTD_PORT", "AGENTD_LISTEN"),
        ("AGENTD_WORKERS_MAX", "WORKERS_MAX"),
        ("AGENTD_UNKNOWN_ADDON", "AGENTD_UNKNOWN_ADDONS"),
    ],
)
@pytest.mark.parametrize("dotenv", [True, False])
def test_unknown_variables(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, suggestion: str, dotenv: bool
) -> None:
    if dotenv:
        (folder / ".env").write_text(f"{name}=1\n")
    else:
        monkeypatch.setenv(name, "1")
    [warning] = load().warnings
    assert name in warning
    assert warning.endswith(f"did you mean {suggestion}?")


@pytest.mark.parametrize("name", ["AGENTD_SERVER", "AGENTD_SERVICE_HOST", "AGENTD_PORT_8080_TCP_ADDR", "agentd_x"])
def test_variables_that_are_not_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    assert load().warnings == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("workers_mx = 1", "workers_mx (agentd.toml): is not a setting; did you mean workers_max?"),
        ("WORKERS_MAX = 1", "WORKERS_MAX (agentd.toml): is not a setting; did you mean workers_max?"),
        ("zzz = 1", "zzz (agentd.toml): is not a setting; see docs/settings.md"),
        ("workers_max = ", "the file (agentd.toml): is not TOML: "),
        ("workers_max = true", "workers_max=True (agentd.toml): allowed: a whole number"),
        ("workers_max = 1.0", "workers_max=1.0 (agentd.toml): allowed: a whole number"),
        ("listen = 8080", "listen=8080 (agentd.toml): allowed: host:port"),
        ("worker_env = 'ok'\nworker_command = [1]", "worker_command=[1] (agentd.toml): allowed: a command line"),
        ("[graph_limits]\na = true", "graph_limits={'a': True} (agentd.toml): allowed: pattern=count"),
    ],
)
def test_mistakes_in_agentd_toml(folder: Path, text: object, told: str) -> None:
    (folder / "agentd.toml").write_text(text)
    assert refused().startswith(told)


def test_files_that_cannot_be_read(folder: Path) -> None:
    assert refused(config=Path("none.toml")).startswith(
        "--config='none.toml' (command line): allowed: a file that exists"
    )
    (folder / "agentd.toml").write_bytes(b"\xff\xfe")
    assert refused().startswith("the file (agentd.toml): is not text in UTF-8")
    (folder / "agentd.toml").unlink()
    (folder / "agentd.toml").mkdir()
    assert refused().startswith("the file (agentd.toml): cannot be read: Is a directory")
    (folder / "agentd.toml").rmdir()
    (folder / ".env").write_text("A=1\nnot a variable\n")
    assert refused().startswith("line 2 (.env): allowed: NAME=value")


def test_a_named_config_replaces_that_of_the_folder(folder: Path) -> None:
    (folder / "agentd.toml").write_text("workers_max = 1\nport = 1")
    (folder / "other.toml").write_text("workers_max = 2")
    loaded = load(config=Path("other.toml"))
    assert (loaded.settings.workers_max, loaded.settings.port) == (2, 8080)
    assert loaded.given["workers_max"].source == "other.toml"


def test_the_environment_with_dotenv(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("BOTH", "environment")
    (folder / ".env").write_text("BOTH=dotenv\nONLY=dotenv\nexport QUOTED='a b'\nBARE\n")
    environment = load().environment
    assert (environment["BOTH"], environment["ONLY"], environment["QUOTED"]) == ("environment", "dotenv", "a b")
    assert "BARE" not in environment


def test_an_agora_id_of_another_length_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGORA_APP_ID", "short")
    assert load().warnings == ("AGORA_APP_ID has 5 characters; Agora's app ids have 32",)
    monkeypatch.setenv("AGORA_APP_ID", "a" * 32)
    assert load().warnings == ()


def test_flags_and_named_settings() -> None:
    flags = {"--workers-max": "5", "-tenapp_dir": "/", "--property": "/p.json", "--log-stdout": "true"}
    loaded = read(flags, ["port=1", "SERVER_PORT=2", "beat-seconds=3", "graph_limits=a=1"], None)
    settings = loaded.settings
    assert (settings.workers_max, settings.app_dir, settings.property_file) == (5, Path("/"), Path("/p.json"))
    assert (settings.port, settings.beat_seconds, settings.log_stdout) == (2, 3.0, True)
    assert settings.graph_limits["a"] == 1
    assert loaded.given["app_dir"].name == "-tenapp_dir"


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("token=x", f"--set token={MASK} (command line): a command line can be read by every user"),
        ("AGORA_APP_CERTIFICATE=x", f"--set AGORA_APP_CERTIFICATE={MASK}"),
        ("workrs_max=1", "--set workrs_max (command line): is not a setting; did you mean workers_max?"),
        ("workers_max", "--set='workers_max' (command line): allowed: NAME=VALUE"),
        ("workers_max=0", "--set workers_max='0' (command line): allowed: a whole number"),
    ],
)
def test_mistakes_in_named_settings(named: str, told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        read({}, [named], None)


@sampled(st.integers(min_value=1, max_value=2**63 - 1))
def test_sizes_are_read_as_they_are_shown(count: float) -> None:
    assert Settings(log_file_bytes=size_text(count)).log_file_bytes == count


@sampled(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.sampled_from(sorted(FIELDS)))
def test_any_text_is_a_value_or_a_problem(text: object, field: str) -> None:
    try:
        read({}, [f"{field}={text}"], None)
    except SettingsError as error:
        assert error.problems


def run(*arguments: str, **variables: str | None) -> Any:
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(
        check=False,
        args=[sys.executable, "-m", "supervisor", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_bad_setting_ends_the_start(folder: Path) -> None:
    ended = run("serve", "--workers-max", "0", AGENTD_TOKEN="a b", AGENTD_LISTN="x")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        f"agentd: AGENTD_TOKEN={MASK} (environment): allowed: visible ASCII characters without spaces, empty: none",
        "agentd: --workers-max='0' (command line): allowed: a whole number from 1 to 2147483647",
    ]


def test_doctor_prints_the_settings(folder: Path) -> None:
    (folder / ".env").write_text("WORKERS_MAX=7\nAGENTD_TOKEN=hush\n")
    ended = run("doctor", "--settings", "--json", "--set", "beat_seconds=1", "--set", "also_listen=[::1]:7091",
                AGENTD_LISTN="x")  # fmt: skip
    rows = {row["name"]: row for row in json.loads(ended.stdout)["settings"]}
    assert list(rows) == list(FIELDS)
    assert (ended.returncode, ended.stderr) == (
        0, "agentd: warning: AGENTD_LISTN (environment) is not a setting; did you mean AGENTD_LISTEN?\n"
    )  # fmt: skip
    assert [rows["workers_max"][key] for key in ("value", "source", "given_as")] == [7, ".env", "WORKERS_MAX"]
    assert rows["beat_seconds"]["source"] == "command line"
    assert rows["token"]["value"] == MASK
    assert (rows["port"]["value"], rows["port"]["source"]) == (8080, "default")
    assert rows["also_listen"]["value"] == ["[::1]:7091"]
    table = run("doctor", "--settings")
    assert "hush" not in table.stdout + ended.stdout
    [row] = [line for line in table.stdout.splitlines() if line.startswith("workers_max ")]
    assert row.split()[:4] == ["workers_max", "7", ".env:", "WORKERS_MAX"]
    assert row.rstrip().endswith("a whole number from 1 to 2147483647")


def test_every_setting_says_what_it_is() -> None:
    for setting in describe():
        assert setting.allowed
        assert setting.meaning
        assert setting.default
        assert setting.variables
        assert in_words(Settings(), setting.name)


def test_the_documentation_has_every_setting() -> None:
    rows = [
        tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        for line in DOCS.read_text().splitlines()
        if line.startswith("| `")
    ]
    assert rows == [
        (
            f"`{setting.name}`",
            ", ".join(f"`{name}`" for name in setting.variables),
            f"`{setting.flag}`" if setting.flag else "-",
            setting.default,
            setting.allowed,
            setting.meaning,
        )
        for setting in describe()
    ]


def snippets(language: str) -> Any:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)


def test_the_examples_of_the_documentation_work(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    [dotenv] = snippets("dotenv")
    (folder / ".env").write_text(dotenv)
    loaded = load()
    assert loaded.warnings == ()
    assert loaded.settings.workers_max == 20
    assert loaded.settings.graph_limits == {"*gemini*": 3, "camera_*": 2, "friday": 5}
    assert loaded.environment["OPENAI_API_KEY"] == "sk-example"
    (folder / ".env").unlink()

    monkeypatch.setenv("AGENTD_TOKEN", "hush")
    server, app = snippets("toml")
    (folder / "agentd.toml").write_text(server)
    settings = load().settings
    assert (settings.host, settings.workers_max, settings.worker_memory_bytes) == ("0.0.0.0", 200, 512 * 1024**2)
    assert settings.injections == (Injection("http_server_python", "listen_port", "port"),)
    assert settings.graph_limits == {"*gemini*": 2, "camera_*": 10}
    (folder / "agentd.toml").write_text(app)
    settings = load().settings
    assert settings.worker_command == ("tman", "run", "start", "--", "--property", "{property_file}")
    assert (settings.worker_env, settings.missing_env) == (("*",), "empty")
