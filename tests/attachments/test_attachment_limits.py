"""A reader that was taken over: it is bounded, ended with all it has started, believed nothing, and leaves nothing."""

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.attachments import readers as readers_module
from supervisor.attachments.reading import PROGRESS_PIECE
from supervisor.attachments.state import Status
from tests.harness.desk import MIB, Desk, MakeDesk, readers_of
from worker.spawner import landlock

DIED = "The file could not be read"
LATE = "The file could not be read in time"
MEMORY = "The file needs more memory to be read than is allowed"
OK = 'import json; open("result", "w").write(json.dumps({"outcome": "text"}))\n'


def nothing_left(desk: Desk) -> bool:
    return not desk.folders() and not readers_of(desk)


LEFT_BEHIND = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
    os._exit(0)
"""


@pytest.mark.parametrize("containment", ["auto", "sweep"])
@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("import os; os.kill(os.getpid(), 11)", DIED),
        ("raise SystemExit(3)", DIED),
        ("1 / 0", DIED),
        ("data = bytearray()\nwhile True: data += bytes(16 * 1024 * 1024)", None),
        ("import time; time.sleep(1000)", LATE),
        ("import signal, time\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(1000)", LATE),
        ("while True: pass", LATE),
        (LEFT_BEHIND + "time.sleep(1000)", LATE),
        (LEFT_BEHIND, DIED),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", LATE),
        ("import os\nwhile True: os.write(2, b'x' * 65536)", LATE),
    ],
)
async def test_a_reader_that_dies_or_is_late(
    make_desk: MakeDesk, fake: dict[str, str], containment: str, code: str, detail: str | None
) -> None:
    desk = await make_desk(containment, environ=fake, seconds=1.5, memory_bytes=200 * MIB)
    began = time.monotonic()
    state, given = await desk.read("a.txt", code.encode())
    assert (state.status, given) == (Status.FAILURE, None)
    assert state.detail in ((DIED, MEMORY) if detail is None else (detail,))  # by rlimit, or by the kernel
    assert time.monotonic() - began < 10
    assert nothing_left(desk)
    assert desk.files() == []


async def test_the_processor_time_is_bounded(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    desk = await make_desk(environ=fake, seconds=30.0)
    desk.readers._limits = readers_module.Limits(cpu_seconds=1)
    state, _ = await desk.read("a.txt", b"while True: pass")
    assert state.detail == DIED
    assert nothing_left(desk)


@pytest.mark.parametrize(
    "code",
    [
        'open("result", "w").write("{")',
        'open("result", "w").write("[]")',
        'open("result", "w").write(\'{"outcome": {"a": 1}}\')',
        'open("result", "w").write(\'{"outcome": "/etc/passwd is readable"}\')',
        'open("result", "w").write(\'{"outcome": "text"}\' + " " * 2000)',
        'import os; os.mkfifo("result")',
        'import os; os.mkdir("result"); open("result/x", "w")',
        'import os; os.symlink("SECRET", "result")',
        OK,  # there is no text
        OK + 'import os; os.symlink("SECRET", "text")',
        OK + 'import os; os.mkfifo("text")',
        OK + 'open("text", "wb").write(b"caf\\xe9")',
        OK + 'open("text", "wb").write(b"\\xed\\xa0\\x80")',
        OK + 'open("text", "wb").write(b"x" * 250_001)',
        OK + 'open("text", "wb").truncate(1_000_001)',
        OK + 'import os, resource\ntry: open("text", "wb").write(b"x" * 17 * 1024 * 1024)\nexcept OSError: pass',
    ],
)
async def test_what_a_reader_leaves_is_not_trusted(
    make_desk: MakeDesk, fake: dict[str, str], tmp_path: Path, code: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"outcome": "text"}')
    desk = await make_desk(environ=fake)
    state, given = await desk.read("a.txt", code.replace("SECRET", str(secret)).encode())
    assert (state.status, state.detail, given) == (Status.FAILURE, DIED, None)
    assert nothing_left(desk)
    assert desk.files() == []
    assert secret.read_text() == '{"outcome": "text"}'


async def test_whatever_is_in_its_folder_is_removed(make_desk: MakeDesk, fake: dict[str, str], tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "x").write_text("mine")
    code = f"""
import os
for _ in range(150):
    os.mkdir("d"); os.chdir("d")
    open("file", "w").close()
os.symlink({str(victim)!r}, "link")
os.chmod(".", 0)
"""
    desk = await make_desk(environ=fake)
    assert (await desk.read("a.txt", code.encode()))[0].detail == DIED
    assert nothing_left(desk)
    assert (victim / "x").read_text() == "mine"


async def test_a_reader_gets_no_secrets(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    code = OK + "import os\nopen('text', 'w').write(repr(sorted(os.environ)) + os.environ['TMPDIR'] + os.getcwd())"
    secrets = {"OPENAI_API_KEY": "sk-1", "AGENTD_TOKEN": "hush", "AGENTD_JWT_SECRET": "hush", "HOME": "/root"}
    desk = await make_desk(environ={**secrets, **fake, "LANG": "C.UTF-8"})
    _, given = await desk.read("a.txt", code.encode())
    assert given is not None
    names = given["text"][: given["text"].index("]") + 1]
    assert set(eval(names)) - {"LC_CTYPE", "LC_ALL", "VIRTUAL_ENV", "LD_LIBRARY_PATH"} == {
        "AGENTD_CHANNEL_ID",
        "AGENTD_INSTANCE",
        "LANG",
        "PATH",
        "PYTHONPATH",
        "TMPDIR",
    }
    assert "hush" not in given["text"]


async def test_a_flood_of_progress_does_not_hold_the_loop(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    code = f"import os\nfor _ in range(20_000): os.write(1, b'7\\n' * {PROGRESS_PIECE // 2})"
    desk = await make_desk(environ=fake, seconds=2.0)
    state = await desk.upload("a.txt", code.encode())
    longest = 0.0
    before = time.monotonic()
    while not state.over:
        await asyncio.sleep(0)
        now = time.monotonic()
        longest, before = max(longest, now - before), now
    assert (state.status, state.current) == (Status.FAILURE, 7)
    assert longest < 1.0
    assert nothing_left(desk)


async def test_a_lost_spawner_costs_one_try(make_desk: MakeDesk, fake: dict[str, str], tmp_path: Path) -> None:
    """The first process dies with its spawner, the second one, of its successor, reads the file."""
    marks = tmp_path / "marks"
    marks.mkdir()
    mark = marks / "mark"
    code = f"""
import os, time
if not os.path.exists({str(mark)!r}):
    open({str(mark)!r}, "w").close()
    time.sleep(1000)
"""
    desk = await make_desk(environ=fake)
    desk.readers._isolation = replace(desk.readers._isolation, write=(str(marks),))
    state = await desk.upload("a.txt", (code + OK + "open('text', 'w').write('second')").encode())
    async with asyncio.timeout(60):
        while not mark.exists():
            await asyncio.sleep(0.005)
    os.kill(desk.spawner.hello["pid"], 9)
    assert (await desk.over(state)).status is Status.SUCCESS
    [given] = await desk.attachments.given("ada", [state.attachment_id])
    assert given is not None
    assert given["text"] == "second"
    assert nothing_left(desk)


async def test_a_file_that_kills_every_spawner_fails(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    desk = await make_desk(environ=fake)
    state = await desk.upload("a.txt", b"import os, time; os.kill(os.getppid(), 9); time.sleep(1000)")
    assert (await desk.over(state)).detail == DIED
    assert nothing_left(desk)


async def test_a_process_that_cannot_be_started(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(desk.spawner, "spawn", broken)
        state, _ = await desk.read("a.txt", b"x")
    assert (state.status, state.detail) == (Status.FAILURE, "The file could not be read now")
    assert nothing_left(desk)
    monkeypatch.setattr("supervisor.attachments.reading.COMMAND", ("/nonexistent/python",))
    assert (await desk.read("a.txt", b"x"))[0].detail == "The file could not be read now"
    assert nothing_left(desk)


async def test_a_close_ends_all_readers(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    desk = await make_desk(environ=fake, at_once=3)
    for name in ("a.txt", "a.pdf", "a.pdf", "a.pdf"):
        await desk.upload(name, (LEFT_BEHIND + "time.sleep(1000)").encode())
    async with asyncio.timeout(60):
        while len(readers_of(desk)) < 6:
            await asyncio.sleep(0.01)
    began = time.monotonic()
    await desk.attachments.close()
    assert time.monotonic() - began < 3
    assert nothing_left(desk)


async def test_a_reader_reaches_its_file_and_nothing_else(
    make_desk: MakeDesk, fake: dict[str, str], tmp_path: Path
) -> None:
    """Confined: not even the other files of its user, and no network."""
    desk = await make_desk(environ=fake)
    _, other = await desk.read("b.txt", (OK + "open('text', 'w').write('other')").encode())
    assert other is not None
    outside = tmp_path / "outside"
    code = f"""
import errno, json, os, socket
found = {{}}
def attempt(name, act):
    try:
        act()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
attempt("its file", lambda: open("input").read())
attempt("other file", lambda: open({other["path"]!r}).read())
attempt("store", lambda: open({str(desk.state_dir / "store.db")!r}, "rb").read())
attempt("state folder", lambda: os.listdir({str(desk.state_dir)!r}))
attempt("passwords", lambda: open("/etc/shadow").read())
attempt("outside", lambda: open({str(outside)!r}, "w").close())
attempt("file itself", lambda: open("input", "a").close())
attempt("environment of its parent", lambda: open(f"/proc/{{os.getppid()}}/environ", "rb").read())
attempt("signal", lambda: os.kill(os.getppid(), 0))
for name, family in (("inet", socket.AF_INET), ("inet6", socket.AF_INET6), ("unix", socket.AF_UNIX)):
    attempt(name, lambda: socket.socket(family).close())
open("text", "w").write(json.dumps(found))
"""
    _, given = await desk.read("a.txt", (OK + code).encode())
    assert given is not None
    found = json.loads(given["text"])
    assert found.pop("its file") == "done"
    if landlock.abi() < 6:
        found.pop("signal")
    assert set(found.values()) == {"EACCES", "EPERM"}
    assert not outside.exists()
    assert nothing_left(desk)
