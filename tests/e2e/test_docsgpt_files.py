"""Files that go with a question of DocsGPT's API, from the upload to the agent, and to a model."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from uuid import uuid4

import aiohttp
import pytest

from tests.e2e.test_docsgpt import ANSWER, answer, id_of, stream, text_of
from tests.e2e.test_keys import Keys, keys
from tests.harness import Agentd
from tests.harness.openai_server import OpenAIServer
from tests.harness.scripted import graph
from tests.harness.server import PATIENCE
from tests.harness.talk import faults

__all__ = ["keys"]

PNG = base64.b64decode(b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+M8AAAIBAQDJ/pLvAAAAAElFTkSuQmCC")
NOTE = "Bay 7 is free on Mondays."

Upload = Callable[..., Awaitable[str]]


@pytest.fixture
def upload(agentd: Agentd) -> Upload:
    """Uploads a file and waits until it can be used; its id."""

    async def send(name: str, data: bytes, kind: str, key: str = "") -> str:
        form = aiohttp.FormData()
        form.add_field("file", data, filename=name, content_type=kind)
        form.add_field("api_key", key)
        told = await agentd.request("POST", "/api/store_attachment", data=form)
        assert told["status"] == 200, told
        async with asyncio.timeout(PATIENCE):
            while (task := await agentd.get(f"/api/task_status?task_id={told['task_id']}"))["status"] != "SUCCESS":
                assert task["status"] != "FAILURE", task
                await asyncio.sleep(0.05)
        return str(task["result"]["attachment_id"])

    return send


async def test_files_go_with_one_question(agentd: Agentd, keys: Keys, upload: Upload) -> None:
    alice, again, bob = (keys.add(user=user, graph="demo")["Authorization"][7:] for user in ("alice", "alice", "bob"))
    server = await agentd.start()
    note = await upload("note.txt", NOTE.encode(), "text/plain", alice)
    image = await upload("cat.png", PNG, "image/png", alice)
    question = {"question": "What does the attached file say?", "attachments": [note, image]}
    frames = await stream(server, {**question, "api_key": again})
    told = text_of(frames)
    assert "note.txt" in told
    assert "Bay 7 is free on Mondays." in told
    assert "image cat.png (image/png, " in told
    assert frames[0]["type"] == "answer", "nothing was left out"
    # With this turn only; in any other one again.
    name = id_of(frames)
    more = {"question": "Describe this image", "conversation_id": name, "api_key": alice}
    assert "no file" in (await answer(server, more))["answer"]
    assert "cat.png" in (await answer(server, {**more, "attachments": [image]}))["answer"]
    # What is not there is left out: of nobody, or of somebody else.
    frames = await stream(server, {**more, "attachments": [str(uuid4()), image, "x"]})
    assert frames[0]["notice"] == "2 attachments were not found and were left out"
    assert "cat.png" in text_of(frames)
    frames = await stream(server, {**question, "api_key": bob})
    assert frames[0]["notice"] == "2 attachments were not found and were left out"
    assert "note.txt" not in text_of(frames)
    assert faults(server) == []


async def test_a_model_is_shown_the_files(agentd: Agentd, upload: Upload) -> None:
    async with OpenAIServer().running() as model:
        server = await agentd.start(
            graphs=[graph("model", "openai_chatgpt", base_url=model.url)], AGENTD_DEFAULT_GRAPH="model"
        )
        ids = [await upload("cat.png", PNG, "image/png"), await upload("note.txt", NOTE.encode(), "text/plain")]
        frames = await stream(server, {"question": "Describe this image", "attachments": ids})
        assert text_of(frames) == "Hello there."
        assert model.bodies[0]["messages"][-1]["content"] == [
            {"type": "text", "text": "Describe this image"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}},
            {"type": "text", "text": f"File note.txt:\n{NOTE}"},
        ]
        # A later question is shown without them.
        more = {"question": "And now?", "conversation_id": id_of(frames)}
        assert (await server.post(ANSWER, more))["answer"] == "Hello there."
        roles = [(message["role"], message["content"]) for message in model.bodies[1]["messages"]]
        assert roles[-3:] == [("user", "Describe this image"), ("assistant", "Hello there."), ("user", "And now?")]
    assert faults(server) == []
