"""Huawei Cloud's agent call, checked (wire/huawei-agent.md sections 1 to 3). Pure."""

import re
from typing import Any, Final, NamedTuple

from supervisor.graph_file import kind_of, shown
from supervisor.http.dialects.huawei_errors import MISSING, ParameterRefusal
from supervisor.turns.requests import TurnRequest

SOURCE: Final = "huawei"  # what turns of this API are marked with
QUERY: Final = "query"
NAME: Final = re.compile("[A-Za-z0-9_-]{1,64}")
UUID: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
NAMES_ALLOWED: Final = "1 to 64 letters, digits, '_' and '-' are allowed"


class Place(NamedTuple):
    """What a path names; the conversation's name is in lower case."""

    project: str
    agent: str
    conversation: str

    @property
    def session(self) -> str:
        """The conversation's name among all: neither part has a slash."""
        return f"{self.project}/{self.conversation}"


def place_of(project: str, agent: str, conversation: str) -> Place:
    """The parts of a path, checked. Raises ParameterRefusal."""
    for parameter, value in (("project_id", project), ("agent_id", agent)):
        if not NAME.fullmatch(value):
            raise ParameterRefusal(parameter, f"{parameter} is {shown(value)}; {NAMES_ALLOWED}")
    if not UUID.fullmatch(conversation):
        allowed = "a UUID of the form 8-4-4-4-12 hexadecimal digits is allowed"
        raise ParameterRefusal("conversation_id", f"conversation_id is {shown(conversation)}; {allowed}")
    return Place(project, agent, conversation.lower())


def check_stream(header: str | None) -> None:
    """Raise ParameterRefusal unless a stream is asked for, which is the default and all there is."""
    if header is not None and header.strip().lower() != "true":
        raise ParameterRefusal("stream", f"the header stream is {shown(header)}; agents only stream: true is allowed")


def turn_request(place: Place, body: dict[str, Any]) -> TurnRequest:
    """The turn that a body asks for; fields besides `query` are for the agent. Raises ParameterRefusal."""
    query = body.get(QUERY)
    if query is None or (isinstance(query, str) and not query.strip()):
        raise ParameterRefusal(QUERY, "query is missing or blank; a text is needed", MISSING)
    if not isinstance(query, str):
        raise ParameterRefusal(QUERY, f"query is {kind_of(query)}; a string is allowed")
    return TurnRequest(
        kind="chat",
        graph=place.agent,
        session=place.session,
        messages=[{"role": "user", "content": query}],
        context={name: value for name, value in body.items() if name != QUERY},
        source=SOURCE,
    )
