"""AgentScope's clients: what a reply has to be like, and one that reads replies of a real server."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests.harness.chunks import Chunks
from tests.harness.server import PATIENCE, Agentd

Event = dict[str, Any]

LIMIT = 8 * 1024
DONE = b"data: [DONE]\n\n"
ENDINGS = {"completed", "failed", "canceled"}
KEYS = {
    "response": {"id", "created_at", "completed_at", "output", "usage", "session_id"},
    "message": {"id", "type", "role", "content", "code", "message", "usage", "metadata"},
    "content": {"type", "index", "delta", "msg_id"},
}


def events_of(frames: list[bytes]) -> list[Event]:
    """The events of a whole reply, every rule of the wire checked."""
    assert frames[-1] == DONE
    assert DONE not in frames[:-1]
    events = [event_of(frame) for frame in frames[:-1]]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [(event["object"], event["status"]) for event in events[:2]] == [
        ("response", "created"),
        ("response", "in_progress"),
    ]
    last = events[-1]
    assert last["object"] == "response"
    assert last["status"] in ENDINGS
    assert [event["object"] for event in events[2:-1]].count("response") == 0
    assert isinstance(last["completed_at"], int)
    assert len({event["id"] for event in events if event["object"] == "response"}) == 1
    for frame, event in zip(frames[:-2], events[:-1], strict=True):
        shown = event["output"][0]["content"][0]
        assert len(shown["text"]) <= 4096
        whole = event["object"] != "response" and event["status"] == "completed"
        assert len(frame) < LIMIT or (whole and shown["text"] == ""), len(frame)
    check_messages(events)
    return events


def event_of(frame: bytes) -> Event:
    """One frame's event, whose form is checked."""
    assert frame.startswith(b'data: {"sequence_number":'), frame[:80]
    assert frame.endswith(b"\n\n")
    text = frame.decode()
    assert len(text[:-2].splitlines()) == 1, "some clients split at line ends that are not LF"
    event: Event = json.loads(text.removeprefix("data: "))
    assert {"sequence_number", "object", "status", "error", "output"} | KEYS[event["object"]] <= event.keys(), event
    assert (event["error"] is not None) == (event["status"] == "failed")
    assert isinstance(event["output"][0]["content"][0]["text"], str)
    for message in event["output"]:
        assert {"object", "status", "id", "type", "role", "content"} <= message.keys()
        assert message["role"] in ("assistant", "tool")
        for part in message["content"]:
            assert {"object", "type", "index", "delta", "msg_id"} <= part.keys()
            assert part["msg_id"] == message["id"]
    return event


def check_messages(events: list[Event]) -> None:
    """Every message begins before its content, and its pieces are its text; the last event has all of them."""
    begun: dict[str, Event] = {}
    texts: dict[str, str] = {}
    parts: dict[str, Event] = {}
    complete: list[Event] = []
    newest = events[0]["output"][0]["id"]
    for event in events[2:-1]:
        if event["object"] == "message":
            if event["status"] == "in_progress":
                assert event["content"] is None
                assert event["id"] not in begun
                begun[event["id"]] = event
                if event["type"] == "message":
                    newest = event["id"]
            elif event["status"] == "completed":
                assert event["content"] == [parts[event["id"]]]
                complete.append(event)
        else:
            name = event["msg_id"]
            assert name in begun
            assert event["index"] == 0
            if event["delta"]:
                assert name not in parts
                texts[name] = texts.get(name, "") + event["text"]
            else:
                parts[name] = {key: event[key] for key in event if key not in ("sequence_number", "error", "output")}
                if event["type"] == "text":
                    assert event["text"] == texts[name]
        shown = event["output"][0]
        assert shown["id"] == newest
        said = texts.get(newest, "")
        assert said.endswith(shown["content"][0]["text"])
        assert shown["content"][0].get("truncated", False) == (said != shown["content"][0]["text"])
    assert len(complete) == len(begun), "every message that began is complete"
    last = events[-1]["output"]
    if complete:
        assert [message["id"] for message in last] == list(begun)
        by_id = {message["id"]: message["content"] for message in complete}
        for message in last:
            [part] = message["content"]
            assert [{key: part[key] for key in by_id[message["id"]][0]}] == by_id[message["id"]]
    else:
        assert [message["content"][0]["text"] for message in last] == [""]


def text_of(events: list[Event]) -> str:
    """What was answered in text, by the last event."""
    said = [message for message in events[-1]["output"] if message["type"] == "message"]
    return "".join(message["content"][0]["text"] for message in said)


def asked(text: str, **more: Any) -> dict[str, Any]:
    """The body of a question."""
    return {"input": [{"role": "user", "content": [{"type": "text", "text": text}]}], **more}


class Reply(Chunks):
    """A reply as it comes, chunk by chunk."""

    async def until(self, kind: str, status: str = "in_progress") -> Event:
        """The first event of this kind, waited for."""
        while chunk := await self.next():
            if not chunk.startswith(b":"):
                event = event_of(chunk)
                if (event["object"], event["status"]) == (kind, status):
                    return event
        raise AssertionError(f"the reply ended without {kind} {status}: {self.chunks[-2:]}")

    async def all(self) -> list[Event]:
        """The events of the whole reply, checked."""
        return events_of([chunk for chunk in await self.rest() if not chunk.startswith(b":")])


@contextlib.asynccontextmanager
async def process(agentd: Agentd, body: dict[str, Any]) -> AsyncIterator[Reply]:
    """A turn; leaving the block hangs up if it has not ended."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
        session.post(f"{agentd.address}/process", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Reply(response)


async def ask(agentd: Agentd, body: dict[str, Any]) -> list[Event]:
    """All events of a turn."""
    async with process(agentd, body) as reply:
        return await reply.all()
