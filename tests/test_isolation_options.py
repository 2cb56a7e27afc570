"""The key `isolation` of a graph: what is taken, and what a refusal says."""

from typing import Any

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.isolation import IsolationOptions
from supervisor.options import parse_options


def parsed(value: Any) -> IsolationOptions:
    return parse_options("g", {"isolation": value}).isolation


@pytest.mark.parametrize("level", ["basic", "confined", "namespaced"])
def test_a_word_is_short_for_a_level(level: str) -> None:
    assert parsed(level) == parsed({"level": level}) == IsolationOptions(level=level)


def test_without_it_the_server_decides() -> None:
    assert parse_options("g", {}).isolation == IsolationOptions()
    assert parsed({}).level is None


def test_an_object_is_taken_whole() -> None:
    value = {
        "read": ["/srv/models"],
        "write": ["data"],
        "connect_ports": [443, 0],
        "bind_ports": [],
        "network": True,
        "unix_sockets": True,
    }
    assert parsed(value) == IsolationOptions(
        read=("/srv/models",), write=("data",), connect_ports=(443, 0), bind_ports=(), unix_sockets=True
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (2, "agentd.isolation is 2; allowed is one of basic, confined, namespaced, or an object with level, read"),
        ("strict", "agentd.isolation.level is 'strict'; allowed is one of basic, confined, namespaced"),
        ({"level": 1}, "agentd.isolation.level is 1"),
        ({"levels": "basic"}, "agentd.isolation is {'levels': 'basic'}; allowed is an object with level"),
        ({"read": "/srv"}, "agentd.isolation.read is '/srv'; allowed is a list of at most 64 paths"),
        ({"write": [""]}, "agentd.isolation.write is ['']"),
        ({"write": ["a\0b"]}, "agentd.isolation.write is"),
        ({"connect_ports": [65536]}, "connect_ports is [65536]; allowed is a list of at most 64 ports from 0 to 65535"),
        ({"bind_ports": [True]}, "agentd.isolation.bind_ports is [True]"),
        ({"network": "no"}, "agentd.isolation.network is 'no'; allowed is true or false"),
        ({"level": "basic", "network": False}, "allowed is nothing besides the level basic"),
    ],
)
def test_a_refusal_names_what_is_allowed(value: Any, told: str) -> None:
    with pytest.raises(Refusal) as raised:
        parsed(value)
    assert raised.value.cause is Cause.PROPERTY_INVALID
    assert raised.value.detail.startswith("graph 'g': ")
    assert told in raised.value.detail
