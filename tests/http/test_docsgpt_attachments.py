"""DocsGPT's uploads and their tasks over real sockets, behind the real door, with real readers (wire section 7)."""

import asyncio
import errno
import gzip
import io
import os
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData

from supervisor.attachments.state import Status
from supervisor.auth import Scope
from supervisor.http import docsgpt_attachments, early, forms
from supervisor.keys import KeyFile, new_key
from supervisor.store.errors import StoreError
from tests.conftest import ZOO
from tests.harness import Agentd
from tests.harness.desk import Desk
from tests.harness.documents import pdf, pdf_bomb
from worker.spawn import instance_of

STORE = "/api/store_attachment"
TASK = "/api/task_status"
FILE_LIMIT = 200_000
LIMIT = 500_000
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
B = {"Content-Type": "multipart/form-data; boundary=B"}
PART = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
END = b"\r\n--B--\r\n"

Build = Callable[..., Awaitable[Any]]


@pytest.fixture
async def open_house(build: Build, desk: Desk) -> Build:
    """Opens the house; with `keys` it is closed to those who have none."""

    async def make(**settings: Any) -> Any:
        sizes = {"attachment_file_bytes": FILE_LIMIT, "attachment_request_bytes": LIMIT, "attachment_files_max": 4}
        return await build(attachments=desk.attachments, **{**sizes, **settings})

    return make


@pytest.fixture
async def house(open_house: Build) -> Any:
    return await open_house()


def add_key(house: Any, user: str = "ada", *scopes: Scope) -> str:
    text, row = new_key(scopes=scopes or [Scope.TURNS], user=user, graph=None)
    KeyFile(Path(house.settings.keys_file)).add(row)
    return text


def form(*fields: tuple[str, Any]) -> FormData:
    """`fields` in their order; a pair (file name, content) is a file."""
    data = FormData(quote_fields=False)
    for name, value in fields:
        if isinstance(value, tuple):
            data.add_field(name, value[1], filename=value[0])
        else:
            data.add_field(name, value)
    return data


NOTE = ("file", ("note.txt", b"twelve bytes"))


async def send(house: Any, *fields: tuple[str, Any], path: str = STORE, **options: Any) -> Any:
    return await house.post(path, form(*fields), **options)


async def status(house: Any, task: str) -> Any:
    return (await house.get(f"{TASK}?task_id={task}")).body


async def ended(house: Any, task: str) -> Any:
    async with asyncio.timeout(60):
        while (now := await status(house, task))["status"] not in ("SUCCESS", "FAILURE"):
            await asyncio.sleep(0.005)
    return now


def nothing_kept(desk: Desk) -> bool:
    return desk.files() == [] and os.listdir(desk.root) == [".incoming-i1"] and desk.attachments._books.total == 0


def refusal(answer: Any) -> tuple[int, str, str]:
    return answer.status, answer.headers["Agentd-Cause"], answer.body["message"]


# ---------------------------------------------------------------------- what is taken


async def test_one_file(house: Any, desk: Desk) -> None:
    answer = await send(house, NOTE)
    body = answer.body
    assert answer.status == 200
    assert body.keys() == {"success", "task_id", "attachment_id", "message"}
    assert (body["success"], body["message"]) == (True, "File uploaded successfully. Processing started.")
    assert UUID.fullmatch(body["task_id"])
    assert UUID.fullmatch(body["attachment_id"])
    assert body["task_id"] != body["attachment_id"]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert await ended(house, body["task_id"]) == {
        "status": "SUCCESS",
        "result": {
            "attachment_id": body["attachment_id"],
            "filename": "note.txt",
            "mime_type": "text/plain",
            "token_count": 3,
        },
    }
    [given] = await desk.attachments.given("local", [body["attachment_id"]])
    assert given is not None
    assert given["text"] == "twelve bytes"
    assert os.listdir(desk.attachments.incoming) == []


async def test_several_files(house: Any, desk: Desk) -> None:
    same = [("file", ("same.txt", text)) for text in (b"1", b"2", b"3")]
    body = (await send(house, ("x", "ignored"), same[0], ("other", ("y.txt", b"ignored")), *same[1:])).body
    assert body.keys() == {"success", "tasks", "message"}
    assert body["message"] == "3 file(s) uploaded successfully. Processing started."
    assert [task["upload_index"] for task in body["tasks"]] == [0, 1, 2]
    assert all(task.keys() == {"task_id", "filename", "attachment_id", "upload_index"} for task in body["tasks"])
    for task in body["tasks"]:
        await ended(house, task["task_id"])
    given = await desk.attachments.given("local", [task["attachment_id"] for task in body["tasks"]])
    assert [one and one["text"] for one in given] == ["1", "2", "3"]
    assert len({one and one["path"] for one in given}) == 3


async def test_several_files_some_refused(house: Any) -> None:
    big = ("file", ("big.txt", b"x" * (FILE_LIMIT + 1)))
    body = (await send(house, NOTE, big, ("file", ("b.txt", b"x")))).body
    assert body["message"] == "2 file(s) uploaded successfully. Processing started. 1 file(s) failed."
    assert [(task["upload_index"], task["filename"]) for task in body["tasks"]] == [(0, "note.txt"), (2, "b.txt")]
    assert body["errors"] == [
        {"upload_index": 1, "filename": "big.txt", "error": "File exceeds the 200000-byte upload limit"}
    ]
    body = (await send(house, big, NOTE)).body
    assert (len(body["tasks"]), len(body["errors"]), "task_id" in body) == (1, 1, False)
    body = (await send(house, *[NOTE] * 6)).body
    assert [task["upload_index"] for task in body["tasks"]] == [0, 1, 2, 3]
    assert [(error["upload_index"], error["error"]) for error in body["errors"]] == [
        (4, "More than 4 files; no more are taken at once"),
        (5, "More than 4 files; no more are taken at once"),
    ]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../x.txt", "x.txt"),
        ("/etc/passwd", "passwd"),
        ("C:\\docs\\a.TXT", "a.TXT"),
        ("x" * 5000 + ".txt", "x" * 251 + ".txt"),
        ("日本.pdf", "日本.pdf"),
        ("a%00b.txt", "a%00b.txt"),
        (".bashrc", "bashrc"),
        ("...", None),
    ],
)
async def test_names(house: Any, desk: Desk, given: str, kept: str | None) -> None:
    body = (await send(house, ("file", (given, b"x")), NOTE)).body
    task = body["tasks"][0]
    name = task["filename"]
    assert name == kept if kept is not None else UUID.fullmatch(name)
    assert (await ended(house, task["task_id"]))["result"]["filename"] == name
    [one] = await desk.attachments.given("local", [task["attachment_id"]])
    assert one is not None
    path = Path(one["path"])
    assert (path.parts[-2], path.name) == (task["attachment_id"], name)
    assert path.resolve().is_relative_to(desk.root)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b"filename*=UTF-8''..%2F..%2Fa%00%0D%0Ab%E2%80%AE.txt", "ab.txt"),
        (b"filename*=UTF-8''%2e%2e%5c%2e%2e%5cc.txt", "c.txt"),
        (b'filename="a\xe2\x80\xaeb.txt"', "ab.txt"),
        (b'filename="\xff\xfe.txt"', None),
        (b'filename="C:\\\\a.txt"', "a.txt"),
    ],
)
async def test_names_by_hand(house: Any, given: bytes, kept: str | None) -> None:
    answer = await house.post(STORE, PART.replace(b'filename="a.txt"', given) + b"x" + END, headers=B)
    name = (await ended(house, answer.body["task_id"]))["result"]["filename"]
    assert name == kept or (kept is None and name.endswith(".txt") and name.isprintable())
    assert (await send(house, NOTE)).status == 200


async def test_states_go_forward_and_failures_are_told(open_house: Build) -> None:
    house = await open_house(attachment_file_bytes=LIMIT)
    order = [status.value for status in Status]
    body = (await send(house, ("file", ("a.pdf", pdf(*["page"] * 40))), ("file", ("b.pdf", pdf_bomb())))).body
    seen: dict[str, list[Any]] = {task["task_id"]: [] for task in body["tasks"]}
    async with asyncio.timeout(60):
        while not all(states and states[-1]["status"] in ("SUCCESS", "FAILURE") for states in seen.values()):
            for task, states in seen.items():
                states.append(await status(house, task))
    for states in seen.values():
        places = [order.index(state["status"]) for state in states]
        assert places == sorted(places)
        current = [state["result"]["current"] for state in states if state["status"] == "PROGRESS"]
        assert current == sorted(current)
        assert all(state["result"] is None for state in states if state["status"] in ("PENDING", "STARTED"))
    good, bad = (states[-1] for states in seen.values())
    assert good["status"] == "SUCCESS"
    assert bad == {"status": "FAILURE", "result": "The file unpacks to more than is allowed"}


async def test_task_status(open_house: Build, monkeypatch: pytest.MonkeyPatch, desk: Desk) -> None:
    house = await open_house(token="t0ken")
    for task in ("0d8f4b0e-6f2c-4c7e-9a55-2f6a4f7e1c33", "x", "..%2F..%2Fx", "%00"):
        answer = await house.get(f"{TASK}?task_id={task}")  # without credentials
        assert (answer.status, answer.body) == (200, {"status": "PENDING", "result": None})
    for query in ("", "?task_id="):
        answer = await house.get(TASK + query)
        assert (answer.status, answer.body) == (400, {"success": False, "message": "Task ID is required"})

    async def fail(_: str) -> Any:
        raise StoreError("away")

    monkeypatch.setattr(desk.attachments, "task", fail)
    answer = await house.get(f"{TASK}?task_id=x")
    assert (answer.status, answer.body) == (503, {"success": False, "message": "Service unavailable"})


# ---------------------------------------------------------------------- who asks


@pytest.mark.parametrize("where", ["before", "after", "query", "header"])
async def test_a_key_tells_whose_it_is(open_house: Build, desk: Desk, where: str) -> None:
    house = await open_house(token="t0ken")
    key = add_key(house, "ada")
    fields: list[tuple[str, Any]] = [NOTE]
    if where in ("before", "after"):
        fields.insert(0 if where == "before" else 1, ("api_key", key))
    headers = {"Authorization": f"Bearer {key}"} if where == "header" else {}
    answer = await send(house, *fields, path=f"{STORE}?api_key={key if where == 'query' else ''}", headers=headers)
    assert answer.status == 200, answer.content
    await ended(house, answer.body["task_id"])
    ids = [answer.body["attachment_id"]]
    assert (await desk.attachments.given("ada", ids))[0] is not None
    assert await desk.attachments.given("local", ids) == [None]


async def test_the_key_decides_beside_another(open_house: Build, desk: Desk) -> None:
    house = await open_house(token="t0ken")
    ada, bob = add_key(house, "ada"), add_key(house, "bob")
    answer = await send(house, NOTE, ("api_key", ada), headers={"Authorization": f"Bearer {bob}"})
    await ended(house, answer.body["task_id"])
    assert (await desk.attachments.given("ada", [answer.body["attachment_id"]]))[0] is not None


@pytest.mark.parametrize("first", [False, True])
async def test_nothing_is_kept_with_a_bad_key(open_house: Build, desk: Desk, first: bool) -> None:
    house = await open_house()
    for key in ("agentd_" + "0" * 60, "x" * 5000, "\N{SNOWMAN}"):
        fields = [("api_key", key), NOTE] if first else [NOTE, ("api_key", key)]
        answer = await send(house, *fields)
        assert (answer.status, answer.body) == (401, {"success": False, "message": "Invalid API key"})
        assert answer.headers["Agentd-Cause"] == "key_unknown"
        assert nothing_kept(desk)
    answer = await send(house, NOTE, path=f"{STORE}?api_key=nonsense")
    assert refusal(answer) == (401, "key_unknown", "Invalid API key")
    answer = await house.post(STORE, b"junk", headers={"Content-Type": "text/plain"}, params={"api_key": "x"})
    assert refusal(answer) == (401, "key_unknown", "Invalid API key")
    assert nothing_kept(desk)


async def test_no_credentials(open_house: Build, desk: Desk) -> None:
    house = await open_house(token="t0ken")
    answer = await send(house, NOTE)
    assert (answer.status, answer.body) == (401, {"success": False, "message": "Authentication required"})
    assert answer.headers["Agentd-Cause"] == "unauthorized"
    assert (await send(house, ("x", "y"))).status == 400  # files come before credentials
    answer = await send(house, NOTE, ("api_key", add_key(house, "ada", Scope.OPS)))
    assert (answer.status, answer.headers["Agentd-Cause"]) == (403, "scope_missing")
    assert nothing_kept(desk)


# ---------------------------------------------------------------------- what is no upload

HEADERS_1E5 = PART.replace(b"\r\n\r\n", b"\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n")
GIANT = PART.replace(b"\r\n\r\n", b"\r\nX-A: " + b"b" * 200_000 + b"\r\n\r\n")
NESTED = b"--B\r\nContent-Type: multipart/mixed; boundary=C\r\n\r\n--C\r\n\r\nx\r\n--C--\r\n"
FIELD = b'--B\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n'


# As the server has it; under pytest every warning is an error.
@pytest.mark.filterwarnings("ignore::aiohttp.BadContentDispositionHeader")
@pytest.mark.filterwarnings("ignore::aiohttp.BadContentDispositionParam")
@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (b"", B),
        (b"--B--\r\n", B),
        (b"junk", B),
        (PART + b"x", B),  # no end
        (PART + b"x\r\n--B", B),
        (PART[:40], B),
        (HEADERS_1E5 + b"x" + END, B),
        (GIANT + b"x" + END, B),
        (FIELD * 5000 + PART + b"x" + END, B),
        (NESTED + PART + b"x" + END, B),
        (b"\n" * 400_000 + PART + b"x" + END, B),
        (b"x" * 400_000 + PART + b"x" + END, B),
        (PART.replace(b'filename="a.txt"', b'filename=""') + b"x" + END, B),
        (PART.replace(b'; filename="a.txt"', b"") + b"x" + END, B),
        (PART.replace(b'name="file"', b'name="files"') + b"x" + END, B),
        (PART.replace(b"form-data", b"\xff nonsense") + b"x" + END, B),
        (PART.replace(b'filename="a.txt"', b"filename*=UTF-8''%ff%fe.txt") + b"x" + END, B),
        (PART + b"x" + END, {"Content-Type": "multipart/form-data"}),
        (PART + b"x" + END, {"Content-Type": "multipart/form-data; boundary=" + "B" * 100}),
        (PART + b"x" + END, {"Content-Type": "multipart/mixed; boundary=B"}),
        (b"file=x", {"Content-Type": "application/x-www-form-urlencoded"}),
        (b"{}", {"Content-Type": "application/json"}),
        (b"not gzip", {**B, "Content-Encoding": "gzip"}),
    ],
)
async def test_what_is_no_form_with_files(house: Any, desk: Desk, data: bytes, headers: dict[str, str]) -> None:
    answer = await house.post(STORE, data, headers=headers)
    assert answer.status == 400
    assert answer.body == {"status": "error", "message": "Missing file(s)"}
    assert answer.headers["Agentd-Cause"] == "body_invalid"
    assert nothing_kept(desk)
    assert (await send(house, NOTE)).status == 200


async def test_a_file_that_is_too_large(house: Any, desk: Desk) -> None:
    big = ("file", ("../big.txt", b"x" * (FILE_LIMIT + 1)))
    answer = await send(house, big)
    error = {"upload_index": 0, "filename": "big.txt", "error": "File exceeds the 200000-byte upload limit"}
    assert (answer.status, answer.headers["Agentd-Cause"]) == (413, "body_too_large")
    assert answer.body == {
        "success": False,
        "message": "File exceeds the 200000-byte upload limit",
        "errors": [error],
    }
    answer = await send(house, big, big)
    assert (answer.status, len(answer.body["errors"])) == (413, 2)
    assert nothing_kept(desk)
    assert (await send(house, ("file", ("a", b"x" * FILE_LIMIT)))).status == 200


TOO_LARGE = (413, "body_too_large", "Request exceeds the 500000-byte upload limit")


async def test_a_request_that_is_too_large(house: Any, desk: Desk) -> None:
    pieces = [("file", (f"{number}.txt", b"x" * 150_000)) for number in range(4)]
    assert refusal(await send(house, *pieces)) == TOO_LARGE
    assert nothing_kept(desk)

    async def chunks() -> AsyncIterator[bytes]:
        yield PART
        for _ in range(100):
            yield b"x" * 10_000
        yield END

    assert refusal(await house.post(STORE, chunks(), headers=B)) == TOO_LARGE
    packed = gzip.compress(PART + bytes(20_000_000) + END)
    assert len(packed) < 100_000
    answer = await house.post(STORE, packed, headers={**B, "Content-Encoding": "gzip"})
    assert refusal(answer) == TOO_LARGE
    assert nothing_kept(desk)


async def raw(house: Any, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(f"POST {STORE} HTTP/1.1\r\nHost: localhost\r\n".encode() + data)
    await writer.drain()
    return reader, writer


TYPE = b"Content-Type: multipart/form-data; boundary=B\r\n"


async def test_too_large_by_its_length_is_told_before_it_comes(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "LINGER_SECONDS", 100.0)  # the answer does not wait for what is thrown away
    reader, writer = await raw(house, TYPE + b"Content-Length: 500001\r\n\r\n")
    async with asyncio.timeout(30):
        answer = await reader.read()  # to the end of the connection
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"Request exceeds the 500000-byte upload limit" in answer
    assert b"connection: close" in answer.lower()
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_sends_on_gets_its_answer(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that looks for an answer only after it has sent all: the connection must not be reset before."""
    answer = await house.post(STORE, io.BytesIO(b"x" * 20_000_000), headers=B)
    assert refusal(answer) == TOO_LARGE
    monkeypatch.setattr(early, "LINGER_BYTES", 1_000_000)
    _, writer = await raw(house, TYPE + b"Content-Length: 900000000\r\n\r\n")
    sent = 0
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(30):
            while True:
                writer.write(b"x" * 100_000)
                await writer.drain()
                sent += 100_000
    assert sent < 100_000_000  # what is thrown away is bounded
    writer.close()


@pytest.mark.parametrize("constant", ["IDLE_SECONDS", "FORM_SECONDS"])
@pytest.mark.parametrize("start", [b"", b"\r\n" * 20, PART[:30], PART, PART + b"x" * 100_000, PART + b"x" + END[:6]])
async def test_a_slow_client(
    house: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch, constant: str, start: bytes
) -> None:
    monkeypatch.setattr(docsgpt_attachments, constant, 0.2)
    reader, writer = await raw(house, TYPE + b"Content-Length: 200000\r\n\r\n" + start)

    async def drip() -> None:
        while constant == "FORM_SECONDS":
            writer.write(b"-")
            await asyncio.sleep(0.01)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(30):
        answer = await reader.readuntil(b"}")
    dripping.cancel()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Missing file(s)" in answer
    assert nothing_kept(desk)
    writer.close()


async def test_a_client_that_hangs_up(house: Any, desk: Desk) -> None:
    _, writer = await raw(house, TYPE + b"Content-Length: 200000\r\n\r\n" + PART + b"x" * 100_000)
    async with asyncio.timeout(30):
        while not os.listdir(desk.attachments.incoming):
            await asyncio.sleep(0.001)
        writer.transport.abort()
        while os.listdir(desk.attachments.incoming):
            await asyncio.sleep(0.001)
    assert nothing_kept(desk)


# ---------------------------------------------------------------------- what cannot be kept


async def test_a_full_disk(house: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _data: bytes) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(forms, "_append_all", full)
        answer = await send(house, NOTE, ("file", ("b.txt", b"x")))
    text = "the file could not be stored: No space left on device"
    assert refusal(answer) == (507, "upload_failed", text)
    assert nothing_kept(desk)
    assert (await send(house, NOTE)).status == 200


async def test_no_room(house: Any, desk: Desk) -> None:
    desk.attachments._books._most = 10_000
    answer = await send(house, ("file", ("a.txt", b"x" * 10_000)))
    assert refusal(answer) == (507, "upload_failed", "the server has no room for more attachments")
    assert nothing_kept(desk)


async def test_too_many_that_wait(house: Any, desk: Desk) -> None:
    desk.attachments._queue = 1
    answer = await send(house, NOTE, NOTE)
    assert refusal(answer)[:2] == (503, "upload_failed")
    assert answer.headers["Retry-After"] == "5"
    desk.attachments._queue = 0
    assert (await house.post(STORE, b"", headers=B)).status == 503  # before anything is read
    assert nothing_kept(desk)


async def test_without_the_store(house: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: Any) -> Any:
        raise StoreError("away")

    monkeypatch.setattr(desk.store.attachments, "begin", fail)
    answer = await send(house, NOTE)
    assert refusal(answer) == (503, "store_unavailable", "Service unavailable")
    assert nothing_kept(desk)
    await desk.attachments.close()
    assert refusal(await send(house, NOTE)) == (503, "shutting_down", "Service unavailable")


async def test_what_arrives_together_is_bounded(open_house: Build, desk: Desk) -> None:
    house = await open_house(upload_total_bytes=150_000, token="t0ken")
    key = add_key(house)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield PART + b"x" * 100_000
        arrived.set()
        await go_on.wait()
        yield b'\r\n--B\r\nContent-Disposition: form-data; name="api_key"\r\n\r\n' + key.encode() + END

    first = asyncio.create_task(house.post(STORE, slowly(), headers=B))
    await arrived.wait()
    big = ("file", ("b.txt", b"x" * 100_000))
    async with asyncio.timeout(30):
        while (answer := await send(house, big)).status != 507:  # the first one was not there yet
            assert answer.status == 401
    assert (await send(house, big, headers={"Authorization": f"Bearer {key}"})).status == 200  # whoever is known
    go_on.set()
    assert (await first).status == 200
    assert (await send(house, big, ("api_key", key))).status == 200


# ---------------------------------------------------------------------- a whole server


def memory_of(pid: int, field: str) -> int:
    """Bytes of VmRSS or VmHWM."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


async def result(server: Agentd, task: str) -> Any:
    return (await server.get(f"{TASK}?task_id={task}"))["result"]


async def test_memory_is_bounded(agentd: Agentd, state_dir: Path) -> None:
    """A gigabyte, with every limit far away from it but that of the request."""
    await agentd.start()
    assert agentd.process is not None
    pid = agentd.process.pid
    before = memory_of(pid, "VmRSS")
    block = b"x" * (1 << 20)

    async def stream(head: bytes) -> AsyncIterator[bytes]:
        yield head
        for _ in range(1024):
            yield block

    packer = zlib.compressobj(9, wbits=31)
    zeros = packer.compress(PART) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(1024)) + packer.flush()
    skipped = PART.replace(b'"file"', b'"skipped"')
    for data, more in (
        (stream(PART), {}),
        (stream(skipped), {}),
        (io.BytesIO(zeros), {"Content-Encoding": "gzip"}),
    ):
        answer = await agentd.request("POST", STORE, data=data, headers={**B, **more})
        assert (answer["status"], answer["message"]) == (413, "Request exceeds the 268435456-byte upload limit")
    assert memory_of(pid, "VmHWM") - before < 96 << 20
    root = state_dir / "attachments"
    async with asyncio.timeout(30):
        while list(root.glob("*/*")):
            await asyncio.sleep(0.01)
    assert os.listdir(root) == [f".incoming-{instance_of(state_dir)}"]
    answer = await agentd.request("POST", STORE, data=form(NOTE))
    assert answer["status"] == 200


async def test_a_server_takes_up_what_another_left(agentd: Agentd, state_dir: Path, tmp_path: Path) -> None:
    await agentd.start(AGENTD_ATTACHMENT_READERS="1")
    answer = await agentd.request("POST", STORE, data=form(*[("file", (f"{n}.pdf", pdf("x"))) for n in range(4)]))
    await agentd.kill()
    assert len(list(state_dir.glob("attachments/*/*/*.pdf"))) == 4
    incoming = state_dir / "attachments" / f".incoming-{instance_of(state_dir)}"
    (incoming / "half").write_text("x")
    successor = await Agentd(state_dir, tmp_path, extra_path=ZOO).start()
    try:
        assert os.listdir(incoming) == []
        for task in answer["tasks"]:
            async with asyncio.timeout(60):
                while not isinstance((now := await result(successor, task["task_id"])), dict) or "current" in now:
                    await asyncio.sleep(0.01)
            assert now["attachment_id"] == task["attachment_id"]
    finally:
        await successor.stop()
    assert not os.listdir(state_dir / "ch")
