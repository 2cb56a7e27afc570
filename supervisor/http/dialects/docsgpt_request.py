"""Bodies of DocsGPT's API, checked in the order of wire/docsgpt.md section 8; the fields are those of section 4. Pure.

Unknown fields are ignored, null counts as left out.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from supervisor import strict_json
from supervisor.causes import Cause, Refusal
from supervisor.http.bodies import parse_object
from supervisor.http.density import check_density
from supervisor.http.dialects.docsgpt_errors import FieldRefusal
from supervisor.http.dialects.halves import mended
from supervisor.turns.requests import TurnRequest

SOURCE: Final = "docsgpt"  # what turns of this API are marked with
UUID: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
NO_CONVERSATION: Final = "None"  # what is told, and may be sent, instead of the id of one that is not kept
MOST_ATTACHMENTS: Final = 64
MOST_INDEX: Final = 2**31 - 1  # of a turn; beyond the end they all mean the same
LARGE: Final = 64 * 1024
HINTS: Final = ("model_id", "prompt_id", "retriever", "active_docs", "chunks", "isNoneDoc", "visibility")
FEEDBACK: Final = ("LIKE", "DISLIKE", None)

Body = dict[str, Any]
Message = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked. `conversation` is None for a new one, else in lower case, "" for one that cannot exist."""

    question: str
    api_key: str = field(default="", repr=False)
    agent: str = ""
    conversation: str | None = None
    history: list[Message] = field(default_factory=list)
    save: bool = True
    index: int | None = None
    attachments: list[str] = field(default_factory=list)
    passthrough: dict[str, Any] = field(default_factory=dict)
    hints: dict[str, Any] = field(default_factory=dict)

    def turn_request(self, *, graph: str, user: str, new: str, attachments: list[dict[str, Any]]) -> TurnRequest:
        """The turn this asks for. `new` names the conversation if it is to be a new one.

        One that is new and not to be kept has no name: its worker is for this turn alone. Raises
        Refusal(CONVERSATION_UNKNOWN) for an id that none can have.
        """
        if self.conversation == "":
            raise Refusal(Cause.CONVERSATION_UNKNOWN)
        session = self.conversation or (new if self.save else None)
        return TurnRequest(
            kind="chat",
            graph=graph,
            user=user,
            session=session,
            messages=[{"role": "user", "content": self.question}],
            history=self.history,
            attachments=attachments,
            context=self.passthrough,
            options=self.hints,
            store=self.save,
            shared=session is not None,
            continues=self.conversation is not None,
            replaces=self.index,
            source=SOURCE,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What somebody thinks of an answer; None takes it back. `conversation` is as in a question."""

    feedback: str | None
    conversation: str
    index: int
    api_key: str = field(default="", repr=False)


def parse(data: bytes) -> Body:
    """The JSON object of a body; a lone surrogate in it becomes U+FFFD. Raises Refusal(BODY_INVALID)."""
    return parse_object(mended(data))


def question(body: Body, *, streams: bool) -> Question:
    """A question; `index` is a field of streams only. Raises FieldRefusal that names the field and what is allowed."""
    if body.get("tool_actions") is not None:
        raise FieldRefusal("tool_actions is not supported", "error")
    index = body.get("index") if streams else None
    conversation = body.get("conversation_id")
    if conversation in ("", NO_CONVERSATION):
        conversation = None
    needed = {"question": body.get("question")} | ({} if index is None else {"conversation_id": conversation})
    _require(needed)
    asked = _text(body, "question")
    api_key = _text(body, "api_key")
    if conversation is not None:
        conversation = _conversation(conversation)
    return Question(
        question=asked,
        api_key=api_key,
        conversation=conversation,
        history=_history(body.get("history")) if conversation is None else [],
        save=_save(body.get("save_conversation")),
        passthrough=_passthrough(body.get("passthrough")),
        attachments=_attachments(body.get("attachments")),
        index=None if index is None else _index(index, "index"),
        agent=_text(body, "agent_id"),
        hints=_hints(body),
    )


def feedback(body: Body) -> Feedback:
    """What ``/api/feedback`` takes (section 10). Raises FieldRefusal."""
    conversation = body.get("conversation_id")
    if conversation in ("", NO_CONVERSATION):
        conversation = None
    opinion = body.get("feedback")
    there = "" if "feedback" in body else None  # null is an opinion that is taken back
    _require({"feedback": there, "conversation_id": conversation, "question_index": body.get("question_index")})
    if opinion not in FEEDBACK:
        raise FieldRefusal("feedback must be LIKE, DISLIKE or null")
    return Feedback(
        feedback=opinion,
        conversation=_conversation(conversation),
        index=_index(body["question_index"], "question_index"),
        api_key=_text(body, "api_key"),
    )


def _require(needed: dict[str, Any]) -> None:
    if missing := [name for name, value in needed.items() if value is None]:
        raise FieldRefusal(f"Missing required fields: {', '.join(missing)}")


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str | None):
        raise FieldRefusal(f"{name} must be a string")
    return value or ""


def _conversation(value: Any) -> str:
    """A conversation's id; "" for what is no UUID."""
    if not isinstance(value, str):
        raise FieldRefusal("conversation_id must be a string")
    return value.lower() if UUID.fullmatch(value) else ""


def _history(value: Any) -> list[Message]:
    """What was said before, as messages; what is no whole exchange is skipped, such as the question itself."""
    items = _listed(value) if isinstance(value, str) and value else [] if value in (None, "") else value
    if not isinstance(items, list):
        raise FieldRefusal("history must be a JSON array")
    messages: list[Message] = []
    for item in items:
        match item:
            case {"prompt": str(prompt), "response": str(response)}:
                messages += ({"role": "user", "content": prompt}, {"role": "assistant", "content": response})
    return messages


def _listed(text: str) -> Any:
    """The JSON in a text. Raises FieldRefusal."""
    data = mended(text.encode("utf-8", "replace"))
    try:
        if len(data) > LARGE:
            check_density(data)
        if data.count(b"[") + data.count(b"{") > strict_json.MAX_DEPTH:  # as `parse_object` has it
            return strict_json.parse(data)
        return orjson.loads(data)
    except (Refusal, orjson.JSONDecodeError, strict_json.JsonError) as error:
        raise FieldRefusal("history must be a JSON array") from error


def _save(value: Any) -> bool:
    if not isinstance(value, bool | None):
        raise FieldRefusal("save_conversation must be a boolean")
    return value is not False


def _passthrough(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise FieldRefusal("passthrough must be an object")
    return value or {}


def _attachments(value: Any) -> list[str]:
    if not isinstance(value, list | None) or not all(isinstance(one, str) for one in value or ()):
        raise FieldRefusal("attachments must be an array of strings")
    if value and len(value) > MOST_ATTACHMENTS:
        raise FieldRefusal(f"attachments has {len(value)} entries; at most {MOST_ATTACHMENTS} are allowed")
    return value or []


def _index(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise FieldRefusal(f"{name} must be an integer from 0 on")
    return min(value, MOST_INDEX)


def _hints(body: Body) -> dict[str, Any]:
    """What is for the agent to heed or not; only the model's name is checked."""
    _text(body, "model_id")
    return {name: body[name] for name in HINTS if body.get(name) is not None}
