"""The transition table: total, its invariants over every path, and each race of wire/ten.md sections 4 to 7 by name."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from supervisor.causes import Cause
from supervisor.channels.lifecycle import TABLE, Action, Event, Row, State, cause_of_exit, transition

DOCUMENT = Path(__file__).parents[2] / "docs" / "lifecycle.md"
PAIRS = list(itertools.product(State, Event))
DEPTH = 5
FINAL = (Event.GONE, Event.SPAWN_FAILED, Event.LOST)  # of a process tree: nothing follows them


class Life(NamedTuple):
    """What a channel went through: the state it is in, the actions carried out, the cause on record, the refusals."""

    state: State = State.STARTING
    actions: tuple[Action, ...] = ()
    cause: Cause | None = None
    refusals: tuple[Cause | None, ...] = ()

    def after(self, event: Event, brought: Cause | None = None) -> "Life":
        """One event later, by the same rules as the channel's task: the first cause is the one that counts."""
        row = transition(self.state, event)
        moves = row.state is not self.state or row.actions
        cause = self.cause or (row.cause or brought if moves else None)
        return Life(row.state, self.actions + row.actions, cause, (*self.refusals, row.refusal))


def lived(*events: Event | tuple[Event, Cause]) -> Life:
    life = Life()
    for event in events:
        life = life.after(*(event if isinstance(event, tuple) else (event,)))
    return life


STOP = (Event.STOP, Cause.STOPPED)
KILL = (Event.KILL, Cause.KILLED)


# ---------------------------------------------------------------------- every pair


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_every_event_has_a_row_in_every_state(state: State, event: Event) -> None:
    assert isinstance(TABLE[state][event], Row)
    assert transition(state, event) is TABLE[state][event]


def test_the_table_holds_nothing_else() -> None:
    assert set(TABLE) == set(State)
    assert all(set(rows) == set(Event) for rows in TABLE.values())


@pytest.mark.parametrize("event", Event)
def test_gone_is_absorbing(event: Event) -> None:
    row = transition(State.GONE, event)
    assert row.state is State.GONE
    assert row.actions == ()
    assert row.cause is None


@pytest.mark.parametrize("state", State)
def test_a_name_is_taken_until_its_channel_is_gone(state: State) -> None:
    row = transition(state, Event.START)
    assert row.refusal is (None if state is State.GONE else Cause.CHANNEL_EXISTS)
    assert (row.state, row.actions) == (state, ())


@pytest.mark.parametrize("state", State)
def test_only_a_live_channel_is_pinged(state: State) -> None:
    row = transition(state, Event.PING)
    assert row.state is state
    assert row.refusal is (None if state in {State.STARTING, State.RUNNING} else Cause.CHANNEL_UNKNOWN)
    assert (row.actions == (Action.REFRESH,)) == (state is State.RUNNING)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", FINAL)
def test_the_end_of_the_tree_is_the_end_of_the_channel(state: State, event: Event) -> None:
    row = transition(state, event)
    assert row.state is State.GONE
    assert row.actions == (() if state is State.GONE else (Action.FINISH,))


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_states_only_go_forward(state: State, event: Event) -> None:
    order = list(State)
    assert order.index(transition(state, event).state) >= order.index(state)


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_a_refusal_changes_nothing(state: State, event: Event) -> None:
    row = transition(state, event)
    if row.refusal is not None:
        assert (row.state, row.actions, row.cause) == (state, (), None)


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_who_leaves_life_begins_to_end_the_tree_or_has_no_tree(state: State, event: Event) -> None:
    row = transition(state, event)
    if row.state is State.STOPPING and state is not State.STOPPING:
        # An exit needs no kill of ours: the spawner kills what a worker leaves behind.
        assert set(row.actions) & {Action.BEGIN_STOP, Action.KILL_TREE, Action.NOTE_EXIT}
    if row.state is State.GONE and state is not State.GONE:
        assert event in FINAL


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_an_ending_has_a_cause_of_its_own_or_of_its_event(state: State, event: Event) -> None:
    row = transition(state, event)
    begins_to_end = state in {State.STARTING, State.RUNNING} and row.state in {State.STOPPING, State.GONE}
    brings_its_own = event in {Event.STOP, Event.KILL} or (state is State.RUNNING and event is Event.EXIT)
    if begins_to_end and not brings_its_own:
        assert row.cause is not None
    if not begins_to_end:
        assert row.cause is None


# ---------------------------------------------------------------------- every path


def paths(depth: int) -> Iterable[tuple[tuple[Event, ...], Life]]:
    """Every sequence of `depth` events and the life it makes."""

    def walk(life: Life, events: tuple[Event, ...]) -> Iterable[tuple[tuple[Event, ...], Life]]:
        if len(events) == depth:
            yield events, life
            return
        for event in Event:
            yield from walk(life.after(event, Cause.STOPPED), (*events, event))

    return walk(Life(), ())


def test_every_path_of_events_keeps_the_invariants() -> None:
    for events, life in paths(DEPTH):
        actions = life.actions
        assert actions.count(Action.ANSWER_START) <= 1, events
        assert actions.count(Action.BEGIN_LEASE) == actions.count(Action.ANSWER_START), events
        assert actions.count(Action.BEGIN_STOP) <= 1, events
        assert actions.count(Action.FINISH) == (life.state is State.GONE), events
        assert (life.state is State.GONE) == any(event in FINAL for event in events), events
        assert not actions or Action.FINISH not in actions[:-1], events  # nothing is done after the end
        assert (life.cause is not None) or life.state in {State.STARTING, State.RUNNING} or only_exited(events), events


def only_exited(events: tuple[Event, ...]) -> bool:
    """Whether a running worker has ended by itself: then its status tells the cause, not the table."""
    return Event.EXIT in events and not {Event.READY, Event.ADOPTED}.isdisjoint(events)


def test_stopping_never_runs_again_and_gone_never_comes_back() -> None:
    after: dict[State, set[State]] = {state: {state} for state in State}
    for _ in State:
        for state in State:
            after[state] |= {transition(reached, event).state for reached in after[state] for event in Event}
    assert after[State.STOPPING] == {State.STOPPING, State.GONE}
    assert after[State.GONE] == {State.GONE}
    assert after[State.STARTING] == set(State)


# ---------------------------------------------------------------------- races (wire/ten.md sections 4 to 7)


def test_an_orderly_life() -> None:
    life = lived(Event.READY, Event.PING, STOP, Event.EXIT, Event.GONE)
    assert life == Life(
        State.GONE,
        (
            Action.BEGIN_LEASE,
            Action.ANSWER_START,
            Action.REFRESH,
            Action.BEGIN_STOP,
            Action.NOTE_EXIT,
            Action.FINISH,
        ),
        Cause.STOPPED,
        (None,) * 5,
    )


def test_a_stop_during_the_start_cancels_it() -> None:
    life = lived(STOP, Event.EXIT, Event.GONE)
    assert (life.state, life.cause) == (State.GONE, Cause.STOPPED)
    assert Action.ANSWER_START not in life.actions


def test_ready_after_a_stop_comes_too_late() -> None:
    life = lived(STOP, Event.READY)
    assert life.state is State.STOPPING
    assert life.actions == (Action.BEGIN_STOP,)


def test_a_stop_right_after_ready_stops_a_channel_that_was_answered() -> None:
    life = lived(Event.READY, STOP)
    assert life.actions == (Action.BEGIN_LEASE, Action.ANSWER_START, Action.BEGIN_STOP)


def test_two_stops_are_one() -> None:
    life = lived(Event.READY, STOP, (Event.STOP, Cause.SERVER_STOPPED), Event.GONE)
    assert life.actions.count(Action.BEGIN_STOP) == 1
    assert life.refusals == (None,) * 4  # the second one waits for the same end
    assert life.cause is Cause.STOPPED


def test_a_stop_that_comes_after_the_end_is_told_so() -> None:
    assert lived(Event.READY, STOP, Event.GONE, STOP).refusals[-1] is Cause.CHANNEL_UNKNOWN
    assert lived(Event.READY, STOP, Event.GONE, KILL).refusals[-1] is Cause.CHANNEL_UNKNOWN


def test_a_kill_overtakes_a_stop() -> None:
    life = lived(Event.READY, STOP, KILL, Event.GONE)
    assert life.actions[2:] == (Action.BEGIN_STOP, Action.KILL_TREE, Action.FINISH)
    assert life.cause is Cause.STOPPED


def test_a_stop_after_a_kill_adds_nothing() -> None:
    assert lived(Event.READY, KILL, STOP).actions[2:] == (Action.KILL_TREE,)


def test_an_exit_before_a_stop_is_the_cause() -> None:
    life = lived(Event.READY, Event.EXIT, STOP, Event.GONE)
    assert life.state is State.GONE
    assert life.cause is None  # its status tells
    assert Action.BEGIN_STOP not in life.actions


def test_an_exit_after_a_stop_is_the_stop() -> None:
    assert lived(Event.READY, STOP, Event.EXIT, Event.GONE).cause is Cause.STOPPED


def test_a_ping_before_the_lapse_refreshes_and_one_after_it_is_refused() -> None:
    life = lived(Event.READY, Event.PING, (Event.LAPSE, Cause.LAPSED), Event.PING)
    assert life.refusals == (None, None, None, Cause.CHANNEL_UNKNOWN)
    assert life.cause is Cause.LAPSED


def test_a_stop_joins_a_lapse_under_way() -> None:
    life = lived(Event.READY, Event.LAPSE, STOP, Event.GONE)
    assert life.cause is Cause.LAPSED
    assert life.actions.count(Action.BEGIN_STOP) == 1
    assert life.refusals == (None,) * 4


def test_a_lapse_joins_a_stop_under_way() -> None:
    assert lived(Event.READY, STOP, Event.LAPSE, Event.GONE).cause is Cause.STOPPED


def test_an_exit_after_a_lapse_is_the_lapse() -> None:
    assert lived(Event.READY, Event.LAPSE, Event.EXIT, Event.GONE).cause is Cause.LAPSED


def test_a_lapse_after_an_exit_is_nothing() -> None:
    life = lived(Event.READY, Event.EXIT, Event.LAPSE)
    assert life.actions[2:] == (Action.NOTE_EXIT,)


def test_nothing_lapses_while_it_starts() -> None:
    assert lived(Event.LAPSE) == Life(refusals=(None,))


def test_a_ping_is_allowed_while_it_starts() -> None:
    assert lived(Event.PING) == Life(refusals=(None,))


def test_a_start_is_refused_while_it_stops_and_free_afterwards() -> None:
    assert lived(Event.READY, STOP, Event.START).refusals[-1] is Cause.CHANNEL_EXISTS
    assert lived(Event.READY, STOP, Event.GONE, Event.START).refusals[-1] is None


def test_ready_and_the_deadline_of_the_start_in_either_order() -> None:
    early, late = lived(Event.READY, Event.TIMEOUT), lived(Event.TIMEOUT, Event.READY)
    assert early.state is State.RUNNING
    assert late.state is State.STOPPING
    assert late.cause is Cause.START_TIMEOUT
    assert late.actions == (Action.KILL_TREE,)


def test_an_exit_during_the_start_fails_it() -> None:
    life = lived(Event.EXIT, Event.GONE)
    assert (life.cause, life.actions) == (Cause.EXITED_BEFORE_READY, (Action.NOTE_EXIT, Action.FINISH))


def test_an_exit_before_the_deadline_of_the_start_is_the_cause() -> None:
    assert lived(Event.EXIT, Event.TIMEOUT, Event.GONE).cause is Cause.EXITED_BEFORE_READY
    assert lived(Event.TIMEOUT, Event.EXIT, Event.GONE).cause is Cause.START_TIMEOUT


def test_a_spawn_that_fails_after_its_stop_ends_by_the_stop() -> None:
    life = lived(STOP, Event.SPAWN_FAILED)
    assert (life.state, life.cause) == (State.GONE, Cause.STOPPED)


def test_a_stop_that_does_not_come_to_an_end_is_told_and_may_end_later() -> None:
    life = lived(Event.READY, STOP, Event.UNKILLABLE, Event.GONE)
    assert life.actions[2:] == (Action.BEGIN_STOP, Action.FAIL_STOPS, Action.FINISH)


def test_the_death_of_the_spawner_ends_everything_at_once() -> None:
    assert lived(Event.LOST).cause is Cause.SPAWNER_LOST
    assert lived(Event.READY, Event.LOST).cause is Cause.SPAWNER_LOST
    assert lived(Event.READY, STOP, Event.LOST).cause is Cause.STOPPED


def test_endings_told_twice_are_told_once() -> None:
    assert lived(Event.READY, STOP, Event.GONE, Event.GONE, Event.LOST).actions.count(Action.FINISH) == 1


@pytest.mark.parametrize(
    ("status", "oom", "cause"),
    [
        (0, False, Cause.EXITED),
        (1, False, Cause.CRASHED),
        (255, False, Cause.CRASHED),
        (-11, False, Cause.CRASHED),
        (-9, False, Cause.CRASHED),
        (-9, True, Cause.OUT_OF_MEMORY),
    ],
)
def test_the_cause_of_an_exit(status: int, oom: bool, cause: Cause) -> None:
    assert cause_of_exit(status, oom=oom) is cause


# ---------------------------------------------------------------------- the document


def cell(state: State, row: Row) -> str:
    """A row as docs/lifecycle.md shows it."""
    parts = [f"**{row.state.value}**"] if row.state is not state else []
    parts += [action.name.lower() for action in row.actions]
    if row.cause is not None:
        parts.append(f"({row.cause.value})")
    if row.refusal is not None:
        parts.append(f"refused: {row.refusal.value}")
    return " ".join(parts) or "-"


def machine() -> str:
    """The whole table as Markdown."""
    lines = ["| event | " + " | ".join(state.value for state in State) + " |", "| --- |" + " --- |" * len(State)]
    lines += [
        f"| {event.name} | " + " | ".join(cell(state, transition(state, event)) for state in State) + " |"
        for event in Event
    ]
    return "\n".join(lines)


def test_the_document_shows_the_table() -> None:
    assert machine() in DOCUMENT.read_text(), f"{DOCUMENT.name} should have:\n{machine()}"


def test_the_document_names_every_event_and_action() -> None:
    text = DOCUMENT.read_text()
    missing = [f"`{one.name}`" for kind in (Event, Action) for one in kind if f"`{one.name}`" not in text]
    assert not missing
