"""How many turns in a minute, by the clock of the test."""

import pytest

from supervisor.http.rates import Rates


def test_as_many_as_may_in_any_minute() -> None:
    rates = Rates()
    assert [rates.take("k", 2, now) for now in (0.0, 30.0)] == [0.0, 0.0]
    assert rates.take("k", 2, 31.0) == pytest.approx(29.0)
    assert rates.take("k", 2, 59.9) == pytest.approx(0.1)
    assert rates.take("k", 2, 60.0) == 0.0  # the first is a minute old
    assert rates.take("k", 2, 61.0) == pytest.approx(29.0)  # those that were refused do not count


def test_keys_are_counted_apart() -> None:
    rates = Rates()
    assert rates.take("a", 1, 0.0) == rates.take("b", 1, 0.0) == 0.0
    assert rates.take("a", 1, 1.0) == pytest.approx(59.0)


def test_those_that_ask_no_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.http.rates.MOST_KEYS", 3)
    rates = Rates()
    for number in range(3):
        rates.take(str(number), 1, float(number))
    assert rates.take("new", 1, 61.5) == 0.0
    assert sorted(rates._asked) == ["2", "new"]
    assert rates.take("2", 1, 61.6) == pytest.approx(0.4)


def test_a_limit_that_changed() -> None:
    rates = Rates()
    assert [rates.take("k", 5, float(now)) for now in range(5)] == [0.0] * 5
    assert rates.take("k", 2, 10.0) == pytest.approx(53.0)  # until but one of the five is older than a minute
    assert rates.take("k", 6, 10.0) == 0.0
