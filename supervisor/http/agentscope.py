"""AgentScope's API: turns as streams, turns in the background, and the end of a turn that runs."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

import orjson
from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects.agentscope import ERROR, FINISHED, AgentScope, Task
from supervisor.http.dialects.agentscope_objects import SOURCE, Reply
from supervisor.http.dialects.agentscope_request import InterruptBody, ProcessBody, TaskBody, said_of, turn_request
from supervisor.http.dialects.base import TurnHandler
from supervisor.http.dialects.messages import Said
from supervisor.http.faults import checked
from supervisor.http.intake import read_body
from supervisor.http.kept import Kept, Restored
from supervisor.http.principals import graph_for, may_ask, owns
from supervisor.http.replies import native as json_of
from supervisor.http.replies import refused
from supervisor.http.request_keys import PRINCIPAL

if TYPE_CHECKING:
    from supervisor.catalog import GraphCatalog
    from supervisor.settings import Settings
    from supervisor.store.records import ResponseRow
    from supervisor.turns.requests import TurnRequest
    from supervisor.turns.sessions import Sessions

Body = TypeVar("Body", bound=ProcessBody)

PROCESS: Final = "/process"
PENDING: Final = "pending"
RUNNING: Final = "running"


class ProcessApi:
    """The handlers of AgentScope's API."""

    def __init__(
        self,
        settings: "Settings",
        catalog: "GraphCatalog",
        sessions: "Sessions",
        handler: TurnHandler,
        kept: Kept,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._sessions = sessions
        self._handler = handler
        self._kept = kept
        self._body_limit = settings.body_limit_bytes

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API; the interrupt is at TEN's ``/stop``."""
        return [
            web.post(PROCESS, self.process),
            web.post(f"{PROCESS}/task", self.begin_task),
            web.get(f"{PROCESS}/task/{{id}}", self.show_task),
        ]

    async def process(self, request: web.Request) -> web.StreamResponse:
        """``POST /process``: a turn, answered as a stream."""
        body, wanted = await self._asked(request, ProcessBody)
        translator = AgentScope(_reply(body, wanted))
        return await self._handler.handle(request, wanted, translator, stream=True)

    async def begin_task(self, request: web.Request) -> web.Response:
        """``POST /process/task``: a turn in the background."""
        body, wanted = await self._asked(request, TaskBody)
        task_id = _new("task_")
        self._kept.start(
            self._handler.admit(request, wanted),
            Task(task_id, _reply(body, wanted)),
            input=[{"timeout": body.timeout}],
            seconds=body.timeout,
        )
        told = {
            "task_id": task_id,
            "status": "submitted",
            "queue": wanted.graph,
            "message": f"GET {PROCESS}/task/{task_id} tells how far it is",
        }
        return json_of(told)

    async def show_task(self, request: web.Request) -> web.Response:
        """``GET /process/task/{id}``: how far it is, and what came of it."""
        task_id = request.match_info["id"]
        run = self._kept.running(task_id, SOURCE)
        if run is not None and owns(request, run.turn.request.user, run.turn.request.graph):
            return json_of({"status": PENDING if run.turn.channel is None else RUNNING, "result": None})
        row = await self._kept.row(task_id)
        if row is None or row.source != SOURCE or not owns(request, row.user, row.graph):
            raise Refusal(Cause.RESPONSE_UNKNOWN, f"no task {task_id!r:.100} is kept")
        return json_of(_outcome(row))

    async def interrupt(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """End the turn that runs in a session, and wait until it has ended; none may run (section 10)."""
        try:
            wanted = checked(InterruptBody, body)
        except Refusal as refusal:
            return refused(refusal, PROCESS, strict=True)
        at_work = self._sessions.at_work(request[PRINCIPAL].bind(wanted.user), wanted.session_id)
        turns = [turn for turn in at_work if may_ask(request, turn.request.graph)]
        for turn in turns:
            turn.cancel(Cause.TURN_CANCELLED)
        for turn in turns:
            await turn.ended_by()
        said = "interrupted" if turns else "nothing is running"
        return json_of({"status": "success", "message": f"session {wanted.session_id!r:.100}: {said}"})

    async def _asked(self, request: web.Request, model: type[Body]) -> "tuple[Body, TurnRequest]":
        """The body and the turn it asks for. Raises Refusal."""
        body, said = await read_body(request, self._body_limit, partial(_said, model))
        graph = graph_for(request, self._catalog, body.model, self._settings.default_graph)
        return body, turn_request(body, said, graph, str(uuid4()))


def _said(model: type[Body], given: dict[str, Any]) -> tuple[Body, Said]:
    body = checked(model, given, messages=("input",))
    return body, said_of(body)


def _reply(body: ProcessBody, wanted: "TurnRequest") -> Reply:
    return Reply(body.id or _new("response_"), wanted.session or "", time.time(), _message_id)


def _message_id() -> str:
    return _new("msg_")


def _new(prefix: str) -> str:
    return f"{prefix}{uuid4().hex}"


def restored(row: "ResponseRow") -> Restored:
    """A task that an earlier server began."""
    told = orjson.loads(row.body)
    [given] = orjson.loads(row.input)
    reply = Reply(told["id"], told["session_id"], told["created_at"], _message_id)
    seconds: float | None = given["timeout"]
    left = None if seconds is None else max(0.0, row.created_at + seconds - time.time())
    return Restored(Task(row.id, reply), is_background=True, seconds=left)


def _outcome(row: "ResponseRow") -> dict[str, Any]:
    """What is on record of a task."""
    if row.ended_at is None:
        return {"status": RUNNING, "result": None}
    if row.status not in (FINISHED, ERROR):
        return {"status": ERROR, "result": "SERVER_LOST: the server ended before the task did"}
    if not row.body:
        return {"status": ERROR, "result": "TOO_LARGE: the answer is too large to be kept"}
    response = orjson.loads(row.body)
    if row.status == FINISHED:
        return {"status": FINISHED, "result": response}
    error = response["error"] or {"code": "CANCELED", "message": "the turn was interrupted"}
    return {"status": ERROR, "result": f"{error['code']}: {error['message']}"}
