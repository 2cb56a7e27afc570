"""What has become of channels: the ledger by HTTP."""

from typing import Annotated, Any, Final, Protocol

from aiohttp import web
from pydantic import Field

from supervisor.causes import Cause, Refusal
from supervisor.http.principals import as_named, owner_of, shown_name
from supervisor.http.queries import Integer, Query, Seconds, Switch, read_query
from supervisor.http.replies import native
from supervisor.http.request_keys import PRINCIPAL
from supervisor.store.errors import StoreError

MOST_ROWS: Final = 1000
MOST_NUMBER: Final = 2**63 - 1
NOWHERE: Final = "/"  # no user is called so


class Records(Protocol):
    """Where the lives of channels are on record (`Store.ledger`)."""

    async def ledger(
        self,
        *,
        channel: str | None = None,
        graph: str | None = None,
        cause: str | None = None,
        session: str | None = None,
        user: str | None = None,
        since: float | None = None,
        until: float | None = None,
        open: bool | None = None,  # noqa: A002 - the name of the query parameter
        limit: int = 100,
        before: int | None = None,
        space: str | None = None,
    ) -> list[dict[str, Any]]:
        """Lives that fit all that is given, newest first. Raises StoreError."""


class LedgerQuery(Query):
    """Which lives of channels; all that is given has to fit."""

    channel: str | None = Field(None, description="the channel's name")
    graph: str | None = Field(None, description="its graph")
    user: str | None = Field(None, description="whose conversation it carried")
    session: str | None = Field(None, description="the session it was for")
    cause: Cause | None = Field(None, description="why it ended")
    since: Seconds | None = Field(None, description="claimed then or later, in seconds since 1970")
    until: Seconds | None = Field(None, description="claimed before, in seconds since 1970")
    open: Switch | None = Field(None, description="whether it has not ended")
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS), Integer] = Field(100, description="how many at most")
    before: Annotated[int, Field(ge=1, le=MOST_NUMBER), Integer] | None = Field(
        None, description="older than those of an earlier answer: its `next`"
    )


class LedgerApi:
    """The handler of the ledger."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [web.get("/ledger", self.lives)]

    async def lives(self, request: web.Request) -> web.Response:
        """``GET /ledger``: lives of channels, newest first; `next` is where an older page begins, null: nowhere."""
        query = read_query(LedgerQuery, request)
        wanted = _bound(request, query.model_dump(mode="json", exclude={"limit"}, exclude_none=True))
        try:
            rows = await self._records.ledger(limit=query.limit, **wanted)
        except StoreError as error:
            raise Refusal(Cause.STORE_UNAVAILABLE, str(error)) from error
        # A full page may be the last one: then the next is empty.
        following = rows[-1]["number"] if len(rows) == query.limit else None
        for row in rows:
            row |= {"name": shown_name(request, row["name"]), "user": as_named(request, row["user"])}
        return native({"lives": rows, "next": following})


def _bound(request: web.Request, wanted: dict[str, Any]) -> dict[str, Any]:
    """The filters, and those that keep to what exists for who asks."""
    principal = request[PRINCIPAL]
    if principal.graph is not None:
        if wanted.get("graph", principal.graph) != principal.graph:
            return {**wanted, "space": NOWHERE}
        wanted = {**wanted, "graph": principal.graph}
    if principal.user:
        wanted = {**wanted, "space": principal.user}
        if "channel" in wanted:
            wanted["channel"] = owner_of(request).qualified(wanted["channel"])
        if "user" in wanted:
            wanted["user"] = principal.bind(wanted["user"])
    return wanted
