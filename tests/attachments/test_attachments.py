"""Attachments from their upload to their deletion, with real readers."""

import asyncio
import os
import re
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor.attachments import service as service_module
from supervisor.attachments.names import owner_of
from supervisor.attachments.retention import DAY
from supervisor.attachments.service import BusyRefusal
from supervisor.attachments.state import Status
from supervisor.causes import Cause, Refusal
from supervisor.store.errors import StoreError
from tests.harness.desk import Desk, MakeDesk, closed
from tests.harness.documents import encrypted_pdf, pdf, pdf_bomb, word

NOBODYS = "0d8f4b0e-6f2c-4c7e-9a55-2f6a4f7e1c33"
BOMB = "The file unpacks to more than is allowed"


@pytest.mark.parametrize(
    ("name", "data", "mime_type", "text"),
    [
        ("note.txt", b"twelve bytes", "text/plain", "twelve bytes"),
        ("a.md", "# é".encode(), "text/markdown", "# é"),
        ("data.csv", b"a,b\n1,2\n", "text/csv", "a,b\n1,2\n"),
        ("page.html", b"<p>Hi <b>you</b>", "text/html", "Hi\nyou"),
        ("plan.pdf", pdf("Bay 7", "is free"), "application/pdf", "Bay 7\n\nis free"),
        (
            "a.docx",
            word("Hello"),
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "Hello",
        ),
        ("Makefile", b"all:\n", "application/octet-stream", "all:\n"),
        ("photo.png", b"\x89PNG", "image/png", None),
        ("empty.txt", b"", "text/plain", None),
        ("bad.pdf", b"%PDF-1.7 junk", "application/pdf", None),
        ("locked.pdf", encrypted_pdf("x", "hush"), "application/pdf", None),
        ("bad.docx", b"PK", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", None),
        ("tool.bin", bytes(range(256)), "application/octet-stream", None),
    ],
)
async def test_files_are_read_and_given(desk: Desk, name: str, data: bytes, mime_type: str, text: str | None) -> None:
    state, given = await desk.read(name, data)
    assert (state.status, state.name, state.mime_type, state.detail) == (Status.SUCCESS, name, mime_type, "")
    assert state.tokens == -(-len((text or "").encode()) // 4)
    assert given is not None
    path = Path(given.pop("path"))
    expected = {"id": state.attachment_id, "name": name, "mime_type": mime_type}
    assert given == (expected if text is None else {**expected, "text": text})
    assert path == desk.root / owner_of("ada") / state.attachment_id / name
    assert path.read_bytes() == data
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent, path.parent.parent, desk.root)] == [
        0o600,
        0o700,
        0o700,
        0o700,
    ]
    assert desk.folders() == []
    assert os.listdir(desk.attachments.incoming) == []


async def test_given_in_request_order_to_their_user_only(desk: Desk) -> None:
    ours = [await desk.upload(f"{number}.txt", b"x") for number in range(3)]
    theirs, _ = await desk.read("their.txt", b"x", "bob")
    failed, _ = await desk.read("bomb.pdf", pdf_bomb())
    for state in ours:
        await desk.over(state)
    ids = [state.attachment_id for state in ours]
    wanted = [
        ids[2],
        theirs.attachment_id,
        NOBODYS,
        failed.attachment_id,
        "../../etc/passwd",
        ids[0],
        "\ud800",
        ids[2],
        ids[0].upper(),
        "",
    ]
    given = await desk.attachments.given("ada", wanted)
    assert [one and one["id"] for one in given] == [ids[2], None, None, None, None, ids[0], None, ids[2], None, None]
    assert failed.detail == BOMB
    [their] = await desk.attachments.given("bob", [theirs.attachment_id])
    assert their is not None
    assert await desk.attachments.given("ada", []) == []


async def test_what_is_not_read_so_far_is_not_given(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    desk = await make_desk(environ=fake)
    state = await desk.upload("a.txt", b"import time; time.sleep(1000)")
    while state.status is Status.PENDING:
        await asyncio.sleep(0.005)
    assert state.status is Status.STARTED
    assert await desk.attachments.given("ada", [state.attachment_id]) == [None]


async def test_lost_files_are_not_given(desk: Desk, tmp_path: Path) -> None:
    state, given = await desk.read("a.txt", b"text")
    assert given is not None
    path = Path(given["path"])
    secret = tmp_path / "secret"
    secret.write_bytes(b"hush")
    path.unlink()
    path.symlink_to(secret)
    assert await desk.attachments.given("ada", [state.attachment_id]) == [None]
    path.unlink()
    path.write_bytes(b"longer than it was")
    assert await desk.attachments.given("ada", [state.attachment_id]) == [None]
    path.write_bytes(b"four")
    text = path.parent / ".text"
    text.unlink()
    text.symlink_to(secret)
    [given] = await desk.attachments.given("ada", [state.attachment_id])
    assert given is not None
    assert "text" not in given


async def test_unknown_tasks_are_pending(desk: Desk) -> None:
    for task in (NOBODYS, "../x", "\0", "x" * 10_000, "\ud800"):
        state = await desk.attachments.task(task)
        assert (state.status, state.current) == (Status.PENDING, 0)


async def test_progress_goes_forward(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    desk = await make_desk(environ=fake)
    code = """
import os
os.write(1, b"30\\n10\\n junk 5 -1 1000 7x\\n\\xff\\n40\\n")
os.write(1, b"100\\n")
open("go", "wb")
while os.path.exists("go"): pass
"""
    state = await desk.upload("a.txt", code.encode())
    seen = set()
    async with asyncio.timeout(60):
        while state.current < 99:
            seen.add((state.status, state.current))
            await asyncio.sleep(0)
    assert state.status is Status.PROGRESS
    assert seen <= {(Status.PENDING, 0), (Status.STARTED, 0), (Status.PROGRESS, 40)}
    [folder] = desk.folders()
    (desk.state_dir / "ch" / folder / "go").unlink()
    assert (await desk.over(state)).status is Status.FAILURE  # it has left no result


# ---------------------------------------------------------------------- bounds


async def test_each_user_and_all_are_bounded(make_desk: MakeDesk) -> None:
    desk = await make_desk(user_bytes=100_000, total_bytes=150_000)
    kept, _ = await desk.read("a.png", b"x" * 80_000)
    received = desk.received("b.png", b"x" * 40_000)
    with pytest.raises(Refusal, match="84096 of 100000 bytes; 44096 more do not fit") as caught:
        await desk.attachments.accept("ada", [received])
    assert caught.value.cause is Cause.UPLOAD_FAILED
    await desk.over((await desk.attachments.accept("bob", [received]))[0])
    with pytest.raises(Refusal, match="no room"):
        await desk.attachments.accept("cid", [desk.received("c.png", b"x" * 20_000)])
    assert kept.status is Status.SUCCESS
    await closed(desk)
    again = await make_desk(user_bytes=100_000, total_bytes=150_000)
    with pytest.raises(Refusal, match="84096 of 100000 bytes"):
        await again.attachments.accept("ada", [again.received("b.png", b"x" * 40_000)])


async def test_what_fails_takes_no_room(make_desk: MakeDesk) -> None:
    desk = await make_desk(user_bytes=600_000)
    bomb = pdf_bomb()
    for _ in range(3):
        state, given = await desk.read("bomb.pdf", bomb)
        assert (state.status, given) == (Status.FAILURE, None)
    assert desk.files() == []
    assert desk.attachments._books.total == 0
    await closed(desk)
    again = await make_desk()
    assert again.attachments._books.total == 0
    state = await again.attachments.task(state.id)
    assert (state.status, state.detail) == (Status.FAILURE, BOMB)


async def test_the_queue_is_bounded(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    desk = await make_desk(environ=fake, at_once=1, queue=2)
    sleeping = b"import time; time.sleep(1000)"
    for user in ("ada", "bob"):
        await desk.upload("a.txt", sleeping, user)
    with pytest.raises(BusyRefusal, match="too many files wait") as caught:
        await desk.upload("a.txt", sleeping, "cid")
    assert caught.value.cause is Cause.UPLOAD_FAILED
    with pytest.raises(BusyRefusal):
        desk.attachments.check_room()
    assert len(desk.files()) == 3  # the third is still the caller's


async def test_nobody_fills_the_queue_alone(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    desk = await make_desk(environ=fake, at_once=1, queue=8)
    sleeping = b"import time; time.sleep(1000)"
    for _ in range(2):
        await desk.upload("a.txt", sleeping)
    with pytest.raises(BusyRefusal, match="too many files wait"):
        await desk.upload("a.txt", sleeping)
    many = [desk.received("a.txt", sleeping) for _ in range(6)]
    assert len(await desk.attachments.accept("bob", many)) == 6  # at once, as he has none that wait


async def test_so_many_and_so_much_text_for_one_turn(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.attachments.service.MOST_TEXT", 25)
    monkeypatch.setattr("supervisor.attachments.service.MOST_GIVEN", 3)
    states = [await desk.over(await desk.upload(f"{n}.txt", b"ten bytes.")) for n in range(4)]
    ids = [state.attachment_id for state in states]
    given = await desk.attachments.given("ada", [*ids, ids[0]])
    assert [None if one is None else one["name"] for one in given] == ["0.txt", "1.txt", "2.txt", None, "0.txt"]
    assert sorted(one["name"] for one in given[:3] if one is not None and "text" in one) == ["0.txt", "1.txt"]


async def test_a_file_waits_no_longer_than_it_may(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    desk = await make_desk(environ=fake, at_once=1, seconds=2.0)
    first = await desk.upload("a.txt", b"import time; time.sleep(1000)")
    second = await desk.upload("b.txt", b"import time; time.sleep(1000)")
    began = time.monotonic()
    second = await desk.over(second)
    assert (second.status, second.detail) == (Status.FAILURE, "Too many files wait to be read; try again later")
    assert time.monotonic() - began < 2.0
    assert (await desk.over(first)).detail == "The file could not be read in time"


async def test_only_so_many_are_read_at_once(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    desk = await make_desk(environ=fake, at_once=2)
    code = b"import os\nos.write(1, b'1\\n')\nwhile not os.path.exists('go'): pass\n"
    states = [await desk.upload("a.pdf", code, user) for user in ("ada", "ada", "bob", "bob")]
    rounds = []
    for _ in range(2):
        async with asyncio.timeout(60):
            while sum(state.status is Status.PROGRESS for state in states) < 2:
                await asyncio.sleep(0.005)
        rounds.append(desk.folders())
        for folder in rounds[-1]:
            (desk.state_dir / "ch" / folder / "go").touch()
        async with asyncio.timeout(60):
            while sum(state.over for state in states) < 2 * len(rounds):
                await asyncio.sleep(0.005)
    assert [len(folders) for folders in rounds] == [2, 2]


# ---------------------------------------------------------------------- the disk and the store


async def test_all_of_an_upload_or_nothing(desk: Desk) -> None:
    good, lost = desk.received("a.txt", b"x"), desk.received("b.txt", b"x")
    lost.path.unlink()
    with pytest.raises(Refusal, match="the file could not be stored: No such file") as caught:
        await desk.attachments.accept("ada", [good, lost])
    assert caught.value.cause is Cause.UPLOAD_FAILED
    assert desk.files() == []
    assert desk.attachments._books.total == 0
    assert await desk.store.attachments.unfinished() == []
    assert desk.attachments._open == 0


async def test_without_the_store_nothing_is_taken(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> Any:
        raise StoreError("the disk is full")

    received = desk.received("a.txt", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(desk.store.attachments, "begin", fail)
        with pytest.raises(Refusal, match="the disk is full") as caught:
            await desk.attachments.accept("ada", [received])
    assert caught.value.cause is Cause.STORE_UNAVAILABLE
    assert desk.files() == [received.path]
    assert (desk.attachments._books.total, desk.attachments._open) == (0, 0)
    [state] = await desk.attachments.accept("ada", [received])
    assert (await desk.over(state)).status is Status.SUCCESS


async def test_a_full_disk_fails_the_file_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(desk.attachments._files, "write_text", full)
        state, given = await desk.read("a.txt", b"x")
    assert (state.status, state.detail, given) == (
        Status.FAILURE,
        "There is no room for the text of the file",
        None,
    )
    assert desk.files() == []
    assert (await desk.read("a.txt", b"x"))[0].status is Status.SUCCESS


async def test_an_upload_goes_on_without_its_caller(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    begin = desk.store.attachments.begin

    async def slowly(records: Any) -> None:
        begun.set()
        await go_on.wait()
        await begin(records)

    monkeypatch.setattr(desk.store.attachments, "begin", slowly)
    caller = asyncio.create_task(desk.attachments.accept("ada", [desk.received("a.txt", b"x")]))
    await begun.wait()
    caller.cancel()
    await asyncio.wait({caller})
    assert caller.cancelled()
    go_on.set()
    async with asyncio.timeout(60):
        while not (rows := [path for path in desk.files() if path.name == ".text"]):
            await asyncio.sleep(0.005)
    assert len(rows) == 1


async def test_ended_tasks_are_told_from_the_store(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MOST_REMEMBERED", 2)
    states = [(await desk.read(f"{number}.txt", b"1234567"))[0] for number in range(4)]
    assert len(desk.attachments._states) <= 3  # the last one may be about to end
    for state in states:
        again = await desk.attachments.task(state.id)
        assert (again.status, again.attachment_id, again.name, again.tokens) == (
            Status.SUCCESS,
            state.attachment_id,
            state.name,
            2,
        )
    await desk.store.close()
    with pytest.raises(StoreError):
        await desk.attachments.task(states[0].id)
    with pytest.raises(StoreError):
        await desk.attachments.given("ada", [states[0].attachment_id])


# ---------------------------------------------------------------------- ends and beginnings


async def test_a_server_goes_on_where_another_was_ended(make_desk: MakeDesk, fake: dict[str, str]) -> None:
    desk = await make_desk(environ=fake)
    state = await desk.upload("a.txt", b"import time; time.sleep(1000)")
    gone = await desk.upload("b.pdf", b"import time; time.sleep(1000)")
    while not (state.status is gone.status is Status.STARTED and len(desk.folders()) == 2):
        await asyncio.sleep(0.005)
    half = desk.received("half", b"x")
    began = time.monotonic()
    await desk.attachments.close()
    assert time.monotonic() - began < 3
    assert desk.folders() == []
    with pytest.raises(Refusal) as caught:
        await desk.attachments.accept("ada", [half])
    assert caught.value.cause is Cause.SHUTTING_DOWN
    await closed(desk)
    next(path for path in desk.files() if path.name == "b.pdf").unlink()
    again = await make_desk()
    assert (await again.attachments.task(state.id)).status in (Status.PROGRESS, Status.SUCCESS)
    assert (await again.over(state)).status is Status.SUCCESS
    [given] = await again.attachments.given("ada", [state.attachment_id])
    assert given is not None
    assert given["text"] == "import time; time.sleep(1000)"
    lost = await again.over(gone)
    assert (lost.status, lost.detail) == (Status.FAILURE, "The file was lost")
    assert not half.path.exists()


async def test_what_is_too_old_is_deleted(make_desk: MakeDesk) -> None:
    desk = await make_desk(keep_days=2)
    state, _ = await desk.read("a.txt", b"x")
    failed, _ = await desk.read("bomb.pdf", pdf_bomb())
    retention = desk.attachments._retention
    assert await retention.prune(time.time() + 1.9 * DAY) == 0
    assert (await desk.attachments.given("ada", [state.attachment_id]))[0] is not None
    assert await retention.prune(time.time() + 2.1 * DAY) == 2
    assert await desk.attachments.given("ada", [state.attachment_id]) == [None]
    assert os.listdir(desk.root) == [".incoming-i1"]
    assert desk.attachments._books.total == 0
    assert await desk.store.attachments.find([state.attachment_id, failed.attachment_id]) == {}


async def test_days_of_zero_keep_for_ever(make_desk: MakeDesk) -> None:
    desk = await make_desk(keep_days=0)
    await desk.read("a.txt", b"x")
    assert await desk.attachments._retention.prune(time.time() + 10_000 * DAY) == 0


async def test_files_on_nobodys_record_are_removed(desk: Desk, tmp_path: Path) -> None:
    state, _ = await desk.read("a.txt", b"x")
    owner = owner_of("ada")
    stray = desk.root / owner / NOBODYS
    stray.mkdir()
    (stray / "x").write_text("x")
    others = [desk.root / "readme", desk.root / owner / "mine", desk.root / "folder" / NOBODYS / "x"]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not agentd's")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / NOBODYS).mkdir()
    (desk.root / ("0" * 64)).symlink_to(elsewhere)
    retention = desk.attachments._retention
    assert await retention.sweep(time.time() + 0.9 * DAY) == 0  # it may be the store that is wrong
    assert await retention.sweep(time.time() + 1.1 * DAY) == 1
    assert not stray.exists()
    assert all(path.exists() for path in others)
    assert (elsewhere / NOBODYS).exists()
    assert (await desk.attachments.given("ada", [state.attachment_id]))[0] is not None


async def test_a_folder_that_cannot_be_made_ends_the_start(make_desk: MakeDesk, state_dir: Path) -> None:
    (state_dir / "attachments").write_text("in the way")
    with pytest.raises(FileExistsError):
        await make_desk()


async def test_a_fault_of_ours_ends_the_file_not_the_server(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(desk.readers, "read", broken)
        state, _ = await desk.read("a.txt", b"x")
    assert (state.status, state.detail) == (Status.FAILURE, "The file could not be read")
    assert (await desk.read("a.txt", b"x"))[0].status is Status.SUCCESS


def test_no_sentence_for_clients_has_a_path() -> None:
    from supervisor.attachments import readers, reading

    told = [*reading.FAULTS.values(), reading.DIED, reading.NOT_STARTED, reading.LATE, readers.BUSY]
    told += [service_module.LOST, service_module.NO_ROOM, service_module.FAULT]
    assert all(re.fullmatch(r"[A-Z][a-z; ]+", text) and len(text) < 80 for text in told)
