"""That the search for planted secrets finds them: it must not pass for want of looking."""

import os
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from supervisor.auth import Scope
from supervisor.keys import new_key
from tests.harness import secrets

KEY = new_key(scopes=[Scope.TURNS])[0]
TOKEN = jwt.encode({"sub": "ada"}, "s" * 32)


@pytest.mark.parametrize("text", [KEY, TOKEN, f'{{"error": "no key {KEY}"}}', "hush-hush"], ids=range(4))
def test_in_output(text: str) -> None:
    assert secrets.leaked(f"… {text} …".encode(), [b"hush-hush"])


@pytest.mark.parametrize("text", ["", KEY[:20], KEY[16:], "agentd_state", "a.b.c", TOKEN[:30]], ids=range(6))
def test_not_in_output(text: str) -> None:
    assert not secrets.leaked(text.encode(), [b"hush-hush"])


def test_in_files_and_their_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log").write_text(f"x {KEY} y")
    (tmp_path / f"{KEY}.json").touch()
    assert len(secrets.in_files(tmp_path, [])) == 2


def test_in_arguments(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()", KEY], stdin=subprocess.PIPE, env=os.environ) as process:
        assert secrets.in_arguments(tmp_path, []) == [f"arguments of process {process.pid}"]
        process.communicate(b"\n")


def test_of_settings() -> None:
    assert secrets.planted_in({"AGENTD_TOKEN": "abcdefg", "AGENTD_JWT_SECRET": "abc", "HOME": "/root"}) == {b"abcdefg"}
