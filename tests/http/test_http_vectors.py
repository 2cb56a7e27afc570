"""Vector documents: commands to the worker, uploads on disk (wire/ten.md section 10)."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData

from supervisor.causes import Cause, Refusal
from supervisor.http import uploads

LIMIT = 300_000
BIG = bytes(range(256)) * 1100


@pytest.fixture
async def house(build: Any) -> Any:
    return await build(upload_limit_bytes=LIMIT)


def form(*fields: tuple[str, Any]) -> FormData:
    """`fields` in their order; a pair (file name, content) is a file."""
    data = FormData(quote_fields=False)
    for name, value in fields:
        if isinstance(value, tuple):
            data.add_field(name, value[1], filename=value[0])
        else:
            data.add_field(name, value)
    return data


def raw_form(*parts: bytes, end: bytes = b"--B--\r\n") -> dict[str, Any]:
    data = b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + end
    return {"data": data, "headers": {"Content-Type": "multipart/form-data; boundary=B"}}


async def send(house: Any, *fields: tuple[str, Any]) -> Any:
    return await house.post("/vector/document/upload", form(*fields))


def files(house: Any) -> list[Path]:
    folders = [house.settings.state_dir, house.table.root]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


async def test_update(house: Any) -> None:
    await house.start()
    body = {"request_id": "u1", "channel_name": "lobby", "collection": "a1_2", "file_name": "x.pdf"}
    answer = await house.post("/vector/document/update", body)
    assert answer.body == {"code": "0", "msg": "success", "data": {"channel_name": "lobby"}}
    assert house.table.commands == [
        (
            "lobby",
            {
                "request_id": "u1",
                "channel_name": "lobby",
                "collection": "a1_2",
                "filename": "x.pdf",
                "ten": {"name": "update_querying_collection", "type": "cmd"},
            },
        )
    ]
    house.table.fault = Refusal(Cause.COMMAND_UNDELIVERED)
    assert (await house.post("/vector/document/update", body)).code == "10104"
    assert (await house.post("/vector/document/update", body | {"channel_name": "x"})).code == "10002"
    assert (await house.post("/vector/document/update", body | {"channel_name": ""})).code == "10004"


@pytest.mark.parametrize("file_first", [False, True])
async def test_upload(house: Any, file_first: bool) -> None:
    channel = await house.start()
    fields: list[tuple[str, Any]] = [("channel_name", "lobby"), ("request_id", "u1"), ("extra", "x" * 1000)]
    fields.insert(0 if file_first else 3, ("file", ("../../My Paper.PDF", BIG)))
    answer = await send(house, *fields)
    data = answer.body["data"]
    assert answer.code == "0"
    assert data.keys() == {"channel_name", "collection", "file_name"}
    assert (data["channel_name"], data["file_name"]) == ("lobby", "My Paper.PDF")
    assert re.fullmatch(r"a[0-9a-f]{32}_[0-9]+", data["collection"])
    [(name, command)] = house.table.commands
    path = Path(command.pop("path"))
    assert (name, command) == (
        "lobby",
        {
            "request_id": "u1",
            "channel_name": "lobby",
            "collection": data["collection"],
            "filename": "My Paper.PDF",
            "ten": {"name": "file_chunk", "type": "cmd"},
        },
    )
    assert path.parent == channel.folder / "uploads"
    assert re.fullmatch(r"[0-9a-f]{32}\.pdf", path.name)
    assert path.read_bytes() == BIG
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert files(house) == [path]


@pytest.mark.parametrize(
    ("given", "kept", "extension"),
    [
        ("paper.pdf", "paper.pdf", ".pdf"),
        ("/etc/passwd", "passwd", ""),
        ("C:\\docs\\a.TXT", "a.TXT", ".txt"),
        ("a.tar.gz", "a.tar.gz", ".gz"),
        ("a.p/../df", "df", ""),
        ("a.sh;rm", "a.sh;rm", ""),
        ("a.verylongextension", "a.verylongextension", ""),
        ("a.", "a.", ""),
        ("..", "..", ""),
        ("", "", ""),
        ("日本.pdf", "日本.pdf", ".pdf"),
        ("a.pd\u0456", "a.pd\u0456", ""),
        ("x\udcff.md", "x?.md", ".md"),
        ("x.md\n", "x.md\n", ""),
        ("y" * 300, "y" * 255, ""),
    ],
)
def test_names(given: str, kept: str, extension: str) -> None:
    assert uploads.file_name_of(given) == kept
    assert re.fullmatch(r"[0-9a-f]{32}" + re.escape(extension), uploads.stored_name(kept))


FILE = ("file", ("a.txt", b"text"))


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ([("channel_name", "lobby")], 200, "10000"),
        ([("channel_name", "nobody")], 200, "10000"),  # no file comes first
        ([("channel_name", "lobby"), ("file", "a text, no file")], 200, "10000"),
        ([FILE], 200, "10004"),
        ([("channel_name", " "), FILE], 200, "10004"),
        ([("channel_name", "nobody"), FILE], 200, "10002"),
        ([FILE, ("channel_name", "nobody")], 200, "10002"),
        ([("channel_name", "../x"), FILE], 200, "10000"),
        ([FILE, ("channel_name", "../x")], 200, "10000"),
        ([FILE, ("channel_name", "x" * 70_000)], 413, "10000"),
        ([("channel_name", "lobby"), ("file", ("a", b"x" * (LIMIT + 1)))], 413, "10000"),
        ([("file", ("a", b"x" * LIMIT * 3)), ("channel_name", "lobby")], 413, "10000"),
        ([FILE, ("channel_name", "lobby"), ("other", "x" * LIMIT * 3)], 413, "10000"),
        ([*[("x", "y")] * 100, FILE, ("channel_name", "lobby")], 200, "10000"),
    ],
)
async def test_refused_uploads_leave_nothing(house: Any, fields: Any, status: int, code: str) -> None:
    await house.start()
    answer = await send(house, *fields)
    assert (answer.status, answer.code, answer.body["data"]) == (status, code, None)
    assert files(house) == []
    assert house.table.commands == []


async def test_all_uploads_of_a_channel_are_bounded(build: Any) -> None:
    house = await build(upload_total_bytes=100_000)
    channel = await house.start()
    await house.start("other")

    async def code(name: str, size: int, file_first: bool = False) -> str:
        fields = [("channel_name", name), ("file", ("a", b"x" * size))]
        answer = await send(house, *(reversed(fields) if file_first else fields))
        if answer.code == "10006":
            assert "100000" in answer.body["detail"]
        return str(answer.code)

    assert [await code("lobby", 40_000), await code("lobby", 50_001)] == ["0", "0"]
    for path in (channel.folder / "uploads").iterdir():
        path.unlink()  # by the worker: the bound is for its life
    for file_first in (False, True):
        assert [await code("lobby", size, file_first) for size in (10_000, 0)] == ["10006", "0"]
        assert await code("other", 40_000, file_first) == "0"
    assert await code("lobby", 0) == "10006"  # even an empty file takes a block
    assert await code("other", 100_001) == "10006"  # more than may arrive at one time
    assert await code("other", 20_000) == "0"
    await house.post("/stop", {"channel_name": "lobby"})
    await house.start()
    assert await code("lobby", 100_000) == "0"


@pytest.mark.parametrize("fault", [Refusal(Cause.COMMAND_UNDELIVERED), RuntimeError("bug")])
async def test_what_was_not_kept_does_not_count(build: Any, fault: Exception) -> None:
    house = await build(upload_total_bytes=100_000)
    await house.start()
    upload = (("channel_name", "lobby"), ("file", ("a", b"x" * 60_000)))
    for _ in range(3):
        house.table.fault = fault
        assert (await send(house, *upload)).code in ("10104", "10000")
        assert (await send(house, ("file", ("a", b"x" * 60_000)))).code == "10004"
    assert (await send(house, *upload)).code == "0"
    assert (await send(house, *upload)).code == "10006"


async def test_uploads_that_arrive_together_are_bounded(build: Any) -> None:
    house = await build(upload_total_bytes=100_000)
    await house.start()
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> Any:
        yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 80_000
        arrived.set()
        await go_on.wait()
        yield b'\r\n--B\r\nContent-Disposition: form-data; name="channel_name"\r\n\r\nlobby\r\n--B--\r\n'

    first = asyncio.create_task(house.post("/vector/document/upload", slowly(), headers=headers))
    await arrived.wait()
    async with asyncio.timeout(10):
        while (await send(house, ("channel_name", "lobby"), ("file", ("b", b"x" * 60_000)))).code == "0":
            house.table.channels.clear()  # the first one was not there yet
            await house.start()
    go_on.set()
    assert (await first).code == "0"


@pytest.mark.parametrize("constant", ["IDLE_SECONDS", "FORM_SECONDS"])
async def test_forms_that_do_not_arrive(house: Any, monkeypatch: pytest.MonkeyPatch, constant: str) -> None:
    monkeypatch.setattr(uploads, constant, 0.1)
    await house.start()
    ended = asyncio.Event()

    async def slowly() -> Any:
        yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while not ended.is_set():
            yield b"x" * 100 if constant == "FORM_SECONDS" else b""
            await asyncio.sleep(0.01)

    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    answer = await house.post("/vector/document/upload", slowly(), headers=headers)
    ended.set()
    assert (answer.status, answer.code) == (200, "10000")
    assert "0.1 s" in answer.body["detail"]
    assert ("nothing" in answer.body["detail"]) == (constant == "IDLE_SECONDS")
    assert files(house) == []


async def test_a_file_of_just_the_limit(house: Any) -> None:
    await house.start()
    assert (await send(house, ("channel_name", "lobby"), ("file", ("a", b"x" * LIMIT)))).code == "0"


async def test_the_limit_holds_without_a_length(house: Any) -> None:
    await house.start()

    async def endless() -> Any:
        yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 50_000

    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    assert (await house.post("/vector/document/upload", endless(), headers=headers)).status == 413
    assert files(house) == []


PART = b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\ntext'


@pytest.mark.parametrize(
    "request_options",
    [
        {"data": b"", "headers": {"Content-Type": "multipart/form-data; boundary=B"}},
        {"data": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        {"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=" + "B" * 71}},
        {"data": b"{}", "headers": {"Content-Type": "application/json"}},
        {"data": b"--B\r\n\r\nx\r\n--B--", "headers": {"Content-Type": "multipart/mixed; boundary=B"}},
        raw_form(PART, end=b""),
        raw_form(b'Content-Disposition: form-data; name="file"; filename="a.txt"'),
        raw_form(b"no colon\r\n\r\nx"),
        raw_form(b"A: " + b"x" * 10_000 + b"\r\n\r\nx"),
        raw_form(b"".join(b"H%d: x\r\n" % n for n in range(200)) + b"\r\nx"),
        raw_form(b"Content-Type: multipart/mixed; boundary=C\r\n\r\n--C\r\n\r\nx\r\n--C--\r\n"),
        raw_form(b'Content-Disposition: form-data; name="_charset_"\r\n\r\n' + b"x" * 40),
        raw_form(b"\r\nno name"),
        raw_form(PART, b'Content-Disposition: form-data; name="channel_name"\r\n\r\n\xff'),
    ],
)
async def test_malformed_forms(house: Any, request_options: Any) -> None:
    await house.start()
    answer = await house.post("/vector/document/upload", **request_options)
    assert (answer.status, answer.code) == (200, "10000")
    assert files(house) == []


async def test_a_file_name_that_is_no_text(house: Any) -> None:
    await house.start()
    channel = b'Content-Disposition: form-data; name="channel_name"\r\n\r\nlobby'
    part = b'Content-Disposition: form-data; name="file"; filename="\xff\xfe.txt"\r\n\r\ntext'
    answer = await house.post("/vector/document/upload", **raw_form(part, channel))
    assert answer.code == "0"
    assert answer.body["data"]["file_name"].endswith(".txt")


@pytest.mark.parametrize("fault", [Refusal(Cause.COMMAND_UNDELIVERED), RuntimeError("bug")])
async def test_a_failed_command_removes_the_file(house: Any, fault: Exception) -> None:
    await house.start()
    house.table.fault = fault
    answer = await send(house, FILE, ("channel_name", "lobby"))
    assert answer.code == ("10104" if isinstance(fault, Refusal) else "10000")
    assert files(house) == []


async def test_a_channel_that_went_while_its_file_came(house: Any) -> None:
    await house.start()

    async def slowly() -> Any:
        yield b'--B\r\nContent-Disposition: form-data; name="channel_name"\r\n\r\nlobby\r\n--B\r\n'
        yield b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield b"x" * 100_000
        await house.post("/stop", {"channel_name": "lobby"})
        yield b"\r\n--B--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    assert (await house.post("/vector/document/upload", slowly(), headers=headers)).code == "10002"
    assert files(house) == []


async def test_what_cannot_be_stored(house: Any) -> None:
    channel = await house.start()
    elsewhere = channel.folder.parent / "elsewhere"
    elsewhere.mkdir()
    (channel.folder / "uploads").symlink_to(elsewhere)  # by a hostile worker
    assert (await send(house, FILE, ("channel_name", "lobby"))).code == "10006"
    (channel.folder / "uploads").unlink()
    channel.folder.rmdir()
    assert (await send(house, FILE, ("channel_name", "lobby"))).code == "10006"
    assert files(house) == []
    house.settings.state_dir.joinpath("uploads").rmdir()
    house.settings.state_dir.joinpath("uploads").write_text("in the way")
    assert (await send(house, FILE, ("channel_name", "lobby"))).code == "10006"


async def test_a_client_that_hangs_up_during_an_upload_leaves_nothing(house: Any) -> None:
    await house.start()
    _, writer = await asyncio.open_connection("127.0.0.1", house.port)
    head = (
        b"POST /vector/document/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    )
    part = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    writer.write(head + b"Content-Length: 200000\r\n\r\n" + part + b"x" * 100_000)
    await writer.drain()
    incoming = house.settings.state_dir / "uploads"
    async with asyncio.timeout(10):
        while not incoming.is_dir() or not list(incoming.iterdir()):
            await asyncio.sleep(0.001)
        writer.transport.abort()
        while list(incoming.iterdir()):
            await asyncio.sleep(0.001)


async def test_an_upload_completes_without_its_client(house: Any) -> None:
    await house.start()
    house.table.gate.clear()
    house.table.waiting.clear()
    upload = asyncio.create_task(send(house, FILE, ("channel_name", "lobby")))
    await house.table.waiting.wait()
    upload.cancel()
    await asyncio.wait([upload])
    await house.get("/health")
    house.table.gate.set()
    await house.runner.cleanup()
    [(_, command)] = house.table.commands
    assert Path(command["path"]).read_bytes() == b"text"


async def test_leftovers_of_a_killed_server_are_removed(build: Any, tmp_path: Path) -> None:
    incoming = tmp_path / "state" / "uploads"
    incoming.mkdir(parents=True)
    (incoming / "half").write_text("x")
    await build()
    assert list(incoming.iterdir()) == []
