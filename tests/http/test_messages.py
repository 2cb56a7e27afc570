"""Where a turn begins in what was said: the same in all APIs."""

import pytest

from supervisor.http.dialects.messages import beginning

ROLES = {"u": "user", "a": "assistant", "t": "tool"}


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("", None),
        ("a", None),
        ("ta", None),
        ("u", 0),
        ("uau", 2),
        ("uu", 1),
        ("ua", 0),
        ("uauaa", 2),
        ("t", 0),
        ("uatt", 2),
        ("ut", 1),
        ("uatu", 2),
        ("uattu", 2),
        ("uattua", 2),
        ("uatau", 4),
        ("tu", 0),
    ],
)
def test_where_a_turn_begins(said: str, place: int | None) -> None:
    assert beginning([{"role": ROLES[letter]} for letter in said]) == place
