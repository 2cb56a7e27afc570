"""The command `agentd keys`, without a server."""

import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import leaks

KEY = re.compile(r"agentd_([0-9a-f]{8})_[A-Za-z0-9_-]{43}\n")


@dataclass
class Done:
    code: int
    out: str
    err: str


class Command:
    """Runs `agentd keys` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.file = self.state / "keys.json"

    def __call__(self, *arguments: str, **variables: str) -> Done:
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", leaks.MARK)}
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "keys", *arguments],
            cwd=self.folder,
            env={**kept, "AGENTD_STATE_DIR": str(self.state), **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def rows(self) -> Any:
        return json.loads(self.file.read_text())["keys"]


@pytest.fixture
def keys(tmp_path: Path) -> Command:
    folder = tmp_path / "folder"
    folder.mkdir()
    return Command(folder)


def test_add_prints_the_key_alone(keys: Command) -> None:
    done = keys("add")
    match = KEY.fullmatch(done.out)
    assert (done.code, bool(match)) == (0, True)
    assert match is not None
    assert done.err == f"agentd: key {match[1]} is in {keys.file}; it is shown this once\n"
    [row] = keys.rows()
    assert (row["id"], row["user"], row["graph"], row["scopes"]) == (match[1], "", None, ["turns"])
    assert done.out.strip() not in keys.file.read_text()
    assert stat.S_IMODE(keys.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.state.stat().st_mode) == 0o700
    assert keys("add").code == 0  # a state folder with a file of keys in it is one still
    assert len(keys.rows()) == 2


def test_add_with_all_options(keys: Command) -> None:
    given = ("--user", "al.i-ce@x_1", "--graph", "my graph", "--scope", "ops", "--scope", "turns", "--json")
    limits = (
        "--turns-per-minute",
        "60",
        "--channels",
        "3",
        "--origin",
        "https://A.example",
        "--origin",
        "http://b:8080",
    )
    done = keys("add", *given, *limits)
    made = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert KEY.fullmatch(made.pop("key") + "\n")
    [row] = keys.rows()
    assert made == {
        "id": row["id"],
        "user": "al.i-ce@x_1",
        "graph": "my graph",
        "scopes": ["turns", "ops"],
        "turns_per_minute": 60,
        "channels": 3,
        "origins": ["https://a.example", "http://b:8080"],
    }
    assert {name: row[name] for name in made} == made


HEADINGS = ["ID", "USER", "GRAPH", "SCOPES", "TURNS/MIN", "CHANNELS", "ORIGINS", "CREATED"]


def test_ls(keys: Command) -> None:
    done = keys("ls")
    assert (done.code, done.err, done.out.split()) == (0, "", HEADINGS)
    assert json.loads(keys("ls", "--json").out) == {"keys": []}
    assert not keys.state.exists()
    text = keys("add", "--user", "alice", "--scope", "control", "--scope", "ops").out
    keys("add", "--graph", "friday")
    first, second = [line.split() for line in keys("ls").out.splitlines()[1:]]
    assert first[:7] == [text[7:15], "alice", "-", "control,ops", "-", "-", "-"]
    assert second[1:4] == ["-", "friday", "turns"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", " ".join(first[7:]))
    done = keys("ls", "--json")
    assert json.loads(done.out)["keys"] == [{k: v for k, v in row.items() if k != "digest"} for row in keys.rows()]
    assert text[16:].strip() not in done.out


def test_revoke(keys: Command) -> None:
    ids = [keys("add").out[7:15] for _ in range(4)]
    assert keys("revoke", ids[0]) == Done(0, f"revoked {ids[0]}\n", "")
    done = keys("revoke", "00000000", ids[1])
    assert (done.code, done.out) == (1, f"revoked {ids[1]}\n")
    assert done.err.startswith("agentd: there is no key '00000000' [key_unknown]\n")
    done = keys("revoke", ids[2], ids[2], "--json")
    assert (done.code, json.loads(done.out)) == (1, {"id": ids[2], "revoked": True})
    assert json.loads(done.err)["error"]["cause"] == "key_unknown"
    assert [row["id"] for row in keys.rows()] == [ids[3]]


def test_a_whole_key_is_not_shown_again(keys: Command) -> None:
    text = keys("add").out.strip()
    for arguments in (("revoke", text), ("add", "--user", text), ("add", "--graph", text), ("add", "--scope", text)):
        done = keys(*arguments)
        assert done.code in (1, 2)
        assert text[16:] not in done.out + done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--user", "a/b"), "--user is 'a/b'; allowed: 1 to 64 of A-Z a-z 0-9 . _ @ -"),
        (("--user", "x" * 39 + " "), "--user is 'x"),
        (("--graph", ""), "--graph is ''; allowed: the name of a graph"),
        (("--scope", "turns", "--scope", "all"), "--scope is 'all'; allowed: turns, control, ops"),
        (("--scope", "turns,ops"), "--scope is 'turns,ops'; allowed: turns, control, ops"),
    ],
)
def test_values_that_are_not_allowed(keys: Command, arguments: Any, told: str) -> None:
    done = keys("add", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"agentd: {told}")
    done = keys("add", "--json", *arguments)
    assert (done.code, json.loads(done.err)["error"]["message"][: len(told)]) == (2, told)
    assert not keys.state.exists()


def test_the_file_is_that_of_the_settings(keys: Command) -> None:
    (keys.folder / "agentd.toml").write_text('keys_file = "a/keys.json"')
    (keys.folder / "other.toml").write_text('keys_file = "b.json"')
    assert keys("add").code == keys("add", "--config", "other.toml").code == 0
    assert keys("add", AGENTD_KEYS_FILE="c.json").code == 0
    for name in ("a/keys.json", "b.json", "c.json"):
        assert len(json.loads((keys.folder / name).read_text())["keys"]) == 1
    assert not keys.state.exists()
    assert len(json.loads(keys("ls", "--json", "--config", "other.toml").out)["keys"]) == 1
    done = keys("ls", AGENTD_KEYS_FIL="x")
    assert (
        done.err == "agentd: warning: AGENTD_KEYS_FIL (environment) is not a setting; did you mean AGENTD_KEYS_FILE?\n"
    )


def test_the_first_key_of_a_server_that_others_reach(keys: Command) -> None:
    (keys.folder / ".env").write_text("AGENTD_LISTEN=0.0.0.0:8080\n")
    assert keys("add").code == 0


@pytest.mark.parametrize("arguments", [("add",), ("ls",), ("revoke", "00000000")])
def test_a_file_that_will_not_do(keys: Command, arguments: Any) -> None:
    keys("add")
    keys.file.chmod(0o666)
    done = keys(*arguments)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[:2] == [
        f"agentd: the file of keys {keys.file} cannot be used [keys_unusable]",
        "  detail: others may write it (mode 0666); allowed: 0600, 0640 or 0644",
    ]
    keys.file.chmod(0o600)
    keys.file.write_text('{"version": 1, "keys": [{"id": 5}]}')
    done = keys(*arguments, "--json")
    assert (done.code, done.out) == (1, "")
    assert json.loads(done.err)["error"]["detail"].startswith("keys[0] has no digest; needed: id, digest, user")


def test_a_state_folder_that_is_not_ours(keys: Command) -> None:
    keys.state.mkdir()
    (keys.state / "something").touch()
    done = keys("add")
    assert (done.code, done.out) == (1, "")
    assert "is not empty and not agentd's" in done.err


def test_doctor_looks_at_the_keys(keys: Command) -> None:
    def finding() -> tuple[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", leaks.MARK)}
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "doctor", "--json", "--set", "port=0"],
            cwd=keys.folder,
            env={**kept, "AGENTD_STATE_DIR": str(keys.state)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        [check] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "keys"]
        return check["status"], check["finding"]

    assert finding() == ("ok", f"none, there is no {keys.file}")
    keys("add")
    assert finding() == ("ok", f"1 in {keys.file}")
    keys.file.write_text("{")
    status, told = finding()
    assert (status, "line 1, column 2" in told) == ("fail", True)
