"""What a later supervisor has to know of a turn, and what it makes of that."""

import structlog

from supervisor.channels.requests import Owner
from supervisor.processes.journal import TurnRecord
from supervisor.turns.requests import Key, TurnRequest
from supervisor.turns.turn import Turn

log = structlog.get_logger("supervisor.turn")


def record_of(turn: Turn, key: Key, *, single: bool) -> TurnRecord:
    """The record of a turn of the session `key`; `single`: that is this turn alone."""
    request = turn.request
    return TurnRecord(
        id=turn.id,
        kind=request.kind,
        began_at=turn.began_at,
        begun=turn.begun,
        after=0 if turn.channel is None else turn.channel.asking.heard,
        graph=key.graph,
        user=key.user,
        session=key.session,
        single=single,
        asked_graph=request.graph,
        asked_user=request.user,
        asked_session=request.session,
        store=request.store,
        linger=request.linger,
        shared=request.shared,
        replaces=request.replaces,
        source=request.source,
        space=request.owner.space,
        key=request.owner.key,
        most_channels=request.owner.channels,
    )


def encoded(turn: Turn, key: Key, *, single: bool) -> bytes | None:
    """The record as it is written; None when it cannot be: then nobody can take the turn over."""
    try:
        return record_of(turn, key, single=single).model_dump_json().encode()
    except ValueError as error:  # half a character in a name, which no file can hold
        log.warning("turn.record_unwritten", turn=turn.id, error=str(error))
        return None


def key_of(record: TurnRecord) -> Key:
    """The session of such a turn."""
    return Key(record.graph, record.user, record.session)


def request_of(record: TurnRecord) -> TurnRequest:
    """What such a turn was asked, but for all that was said: its worker knows that."""
    return TurnRequest(
        kind=record.kind,
        graph=record.asked_graph,
        user=record.asked_user,
        session=record.asked_session,
        store=record.store,
        linger=record.linger,
        shared=record.shared,
        replaces=record.replaces,
        source=record.source,
        owner=Owner(record.space, record.key, record.most_channels),
    )
