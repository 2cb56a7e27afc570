"""The pure parts around a channel: lease, health, names, files, limits; and the plan of a start."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.catalog import GraphCatalog
from supervisor.causes import Cause, Refusal
from supervisor.channels.health import verdict
from supervisor.channels.lease import NEVER, Lease, timeout_of
from supervisor.channels.preparation import Plan, Preparation, tightened
from supervisor.channels.requests import StartRequest, check_channel_name
from supervisor.channels.table import file_stem
from supervisor.options import GraphOptions
from supervisor.ports import PortAllocator
from supervisor.settings import Settings
from worker.spawn import CHANNEL_VARIABLE, INSTANCE_VARIABLE, Limits, instance_of

# ---------------------------------------------------------------------- lease


def test_a_lease_has_no_deadline_before_it_begins() -> None:
    lease = Lease(5.0)
    assert (lease.deadline, lease.remaining(100.0), lease.last_ping) == (NEVER, None, None)


def test_a_lease_runs_from_its_beginning_and_from_each_ping() -> None:
    lease = Lease(5.0)
    lease.begin(10.0)
    assert (lease.deadline, lease.remaining(12.0), lease.last_ping) == (15.0, 3.0, None)
    lease.ping(14.5)
    assert (lease.deadline, lease.remaining(14.5), lease.last_ping) == (19.5, 5.0, 14.5)
    assert lease.remaining(20.0) == -0.5


@pytest.mark.parametrize(
    ("last", "died_at", "paused", "deadline"),
    [
        (100.0, 110.0, True, 240.0),  # 20 of 30 seconds were left at 110: they are left at 220
        (100.0, 110.0, False, 130.0),
        (100.0, 90.0, True, 250.0),  # the mark of life is older than the ping: it lived at 100 for certain
        (100.0, 220.0, True, 130.0),
        (0.0, 110.0, True, 250.0),  # nobody knows: it begins anew
        (0.0, 110.0, False, 250.0),
    ],
)
def test_a_lease_goes_on_under_another_supervisor(last: float, died_at: float, paused: bool, deadline: float) -> None:
    lease = Lease(30.0)
    lease.resume(220.0, last, 4, died_at, paused=paused)
    assert lease.deadline == deadline
    assert (lease.pings, lease.last_ping) == ((4, last) if last else (0, None))


def test_a_lease_that_was_never_pinged_goes_on_without_a_ping() -> None:
    lease = Lease(NEVER)
    lease.resume(10.0, 5.0, 0, 9.0, paused=True)
    assert (lease.deadline, lease.last_ping) == (NEVER, None)


def test_an_endless_lease_never_lapses() -> None:
    lease = Lease(NEVER)
    lease.begin(1.0)
    lease.ping(2.0)
    assert lease.remaining(1e12) is None


@pytest.mark.parametrize(
    ("wish", "seconds"),
    [(None, 60.0), (0, 60.0), (1, 1.0), (45, 45.0), (-1, NEVER), (-2, 60.0), (-(2**63), 60.0), (2**63 - 1, 2.0**63)],
)
def test_the_timeout_of_a_start(wish: int | None, seconds: float) -> None:
    assert timeout_of(wish, 60.0) == seconds


# ---------------------------------------------------------------------- health


@pytest.mark.parametrize(
    ("silent", "beat", "lag", "expected"),
    [
        (0.0, 2.0, 0.0, "ok"),
        (2.1, 2.0, 0.0, "ok"),
        (4.5, 2.0, 0.0, "ok"),  # two beats and the lag that still is ok
        (4.6, 2.0, 0.0, "slow"),
        (0.1, 2.0, 500.0, "ok"),
        (0.1, 2.0, 501.0, "slow"),
        (6.0, 2.0, 0.0, "slow"),
        (6.1, 2.0, 0.0, "stuck"),
        (6.1, 2.0, 900.0, "stuck"),
        (1.0, 0.1, 0.0, "slow"),
        (4.9, 0.1, 0.0, "slow"),  # a fast beat does not make a worker stuck before five seconds
        (5.1, 0.1, 0.0, "stuck"),
        (100.0, 60.0, 0.0, "ok"),
        (181.0, 60.0, 0.0, "stuck"),
    ],
)
def test_health(silent: float, beat: float, lag: float, expected: str) -> None:
    assert verdict(silent, beat, lag) == expected


# ---------------------------------------------------------------------- names (wire/ten.md section 3)


@pytest.mark.parametrize(
    "name",
    [
        "lobby",
        "with spaces ",
        " ",
        "日本語",
        "🙂" * 25,
        "a:b",
        "a*b?",
        "$(id)",
        "x" * 100,
        "a.b",
        "a.",
        "-rf",
        "a\nb",
        "é" * 50,
        "~",
        "%2e%2e",
        "{property_file}",
    ],
)
def test_names_that_are_allowed(name: str) -> None:
    check_channel_name(name)


@pytest.mark.parametrize(
    "name",
    ["x" * 101, "é" * 51, "🙂" * 26, "a/b", "/", "a\\b", "..", "a..b", "a\0b", ".hidden", ".", "\0", "\ud800" * 34],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_channel_name(name)
    assert caught.value.cause is Cause.CHANNEL_NAME_REFUSED
    assert caught.value.detail.startswith("channel_name ")


allowed_names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0/\\"), min_size=1).filter(
    lambda name: len(name.encode()) <= 100 and ".." not in name and not name.startswith(".")
)


@given(allowed_names)
def test_a_name_of_allowed_characters_is_allowed(name: str) -> None:
    check_channel_name(name)


# ---------------------------------------------------------------------- file names

NOW = 1_767_225_600.0


@given(allowed_names, allowed_names, st.integers(1, 10**9), st.integers(1, 10**9))
def test_file_names_are_injective_safe_and_short(one: str, other: str, number: int, next_number: int) -> None:
    stem = file_stem(one, f"18f-{number}", NOW)
    assert "/" not in stem
    assert "\0" not in stem
    assert stem.isascii()
    assert len(f"property-{stem}.json") <= 255
    if number != next_number:  # two channels never share an id
        assert file_stem(other, f"18f-{next_number}", NOW) != stem


def test_a_file_name_is_readable() -> None:
    day = time.strftime("%Y%m%d_%H%M%S", time.localtime(NOW))
    assert file_stem("lobby", "18f-1", NOW) == f"lobby-{day}_18f-1"
    assert file_stem("a b/日", "18f-2", NOW) == f"a%20b%2F%E6%97%A5-{day}_18f-2"


def test_names_of_the_same_second_do_not_share_a_file() -> None:
    stems = {file_stem(name, f"18f-{number}", NOW) for number, name in enumerate(("a:b", "a*b", "a?b", "x" * 100))}
    assert len(stems) == 4


# ---------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("base", "options", "wish", "expected"),
    [
        (Limits(), {}, Limits(), Limits()),
        (Limits(memory_bytes=100), {}, Limits(), Limits(memory_bytes=100)),
        (Limits(memory_bytes=100), {"memory_bytes": 200}, Limits(), Limits(memory_bytes=200)),  # the operator's word
        (Limits(memory_bytes=100), {}, Limits(memory_bytes=50), Limits(memory_bytes=50)),
        (Limits(memory_bytes=100), {}, Limits(memory_bytes=100), Limits(memory_bytes=100)),
        (Limits(memory_bytes=100), {"memory_bytes": 200}, Limits(memory_bytes=150), Limits(memory_bytes=150)),
        (Limits(), {}, Limits(processes=7), Limits(processes=7)),
        (Limits(open_files=9), {"cpu_weight": 5}, Limits(cpu_weight=4), Limits(open_files=9, cpu_weight=4)),
    ],
)
def test_limits_are_tightened(base: Limits, options: dict[str, int], wish: Limits, expected: Limits) -> None:
    assert tightened(base, GraphOptions(limits=options), wish) == expected


@pytest.mark.parametrize(
    ("base", "options", "wish", "named"),
    [
        (Limits(memory_bytes=100), {}, Limits(memory_bytes=101), "limits.memory_bytes is 101; at most 100"),
        (Limits(memory_bytes=100), {"memory_bytes": 50}, Limits(memory_bytes=51), "limits.memory_bytes is 51"),
        (Limits(), {"processes": 3}, Limits(processes=4), "limits.processes is 4; at most 3"),
        (Limits(cpu_weight=100), {}, Limits(cpu_weight=101), "limits.cpu_weight is 101"),
    ],
)
def test_a_request_cannot_widen_a_limit(base: Limits, options: dict[str, int], wish: Limits, named: str) -> None:
    with pytest.raises(Refusal, match=named) as caught:
        tightened(base, GraphOptions(limits=options), wish)
    assert caught.value.cause is Cause.BODY_INVALID


# ---------------------------------------------------------------------- plan


def plan(**fields: Any) -> Plan:
    return Plan(foreign=True, environment={"PATH": "/bin"}, limits=Limits(), warnings=(), **fields)


def test_places_of_a_command_are_filled_wherever_they_stand() -> None:
    command = ("run", "--property={property_file}", "{channel_id}/{channel_id}", "{other}", "$(id)")
    filled = plan(command=command).command_for("18f-1", Path("/logs/property-a b.json"))
    assert filled == ("run", "--property=/logs/property-a b.json", "18f-1/18f-1", "{other}", "$(id)")
    assert plan().command_for("18f-1", Path("/x")) is None


def test_the_environment_of_a_worker_names_its_channel() -> None:
    environment = plan().environment_for("18f-1", Path("/state/ch/18f-1"))
    assert environment == {"PATH": "/bin", CHANNEL_VARIABLE: "18f-1", "AGENTD_CHANNEL_FOLDER": "/state/ch/18f-1"}


def test_the_configuration_of_a_worker_keeps_its_text() -> None:
    data = plan(config={"channel": "日本", "graph": {"n": 9007199254740993}}).config_for("18f-1", Path("/f"))
    assert data is not None
    assert json.loads(data) == {"channel": "日本", "graph": {"n": 9007199254740993}, "id": "18f-1", "folder": "/f"}
    assert plan().config_for("18f-1", Path("/f")) is None


# ---------------------------------------------------------------------- preparation

NODES = {
    "plain": {"name": "n", "addon": "echo", "property": {"greeting": "hi", "key": "${env:KEY|none}"}},
    "rtc": {"name": "agora_rtc", "addon": "agora_rtc", "property": {"app_id": "x"}},
    "http": {"name": "http_server", "addon": "http_server", "property": {"need": "${env:NEEDED}"}},
}


class Ports(PortAllocator):
    """The real allocator, which tells what it holds."""

    @property
    def held(self) -> set[int]:
        return self._held


@pytest.fixture
def ports() -> Ports:
    return Ports()


def preparation(
    folder: Path, ports: Ports, environ: Mapping[str, str], options: dict[str, Any] | None = None, **settings: Any
) -> Preparation:
    graphs = [
        {"name": name, "graph": {"nodes": [{"type": "extension", **node}]}, **({"agentd": options} if options else {})}
        for name, node in NODES.items()
    ]
    (folder / "property.json").write_text(json.dumps({"ten": {"predefined_graphs": graphs}}))
    chosen = Settings(app_dir=folder, state_dir=folder, **settings)
    return Preparation(chosen, GraphCatalog(chosen.property_file, app_dir=folder), ports, environ)


def start(graph: str, **fields: Any) -> StartRequest:
    return StartRequest(channel_name="lobby", graph_name=graph, **fields)


def properties(document: dict[str, Any]) -> dict[str, Any]:
    [entry] = document["ten"]["predefined_graphs"]
    [node] = entry["graph"]["nodes"]
    found: dict[str, Any] = node["property"]
    return found


def test_a_plan_for_a_worker_of_ours(tmp_path: Path, ports: Ports) -> None:
    environ = {"PATH": "/bin", "KEY": "k", "OTHER": "x", "AGENTD_TOKEN": "t"}
    made = preparation(tmp_path, ports, environ).prepare(start("plain", properties={"n": {"greeting": "ho"}}))
    assert not made.foreign
    assert made.command is made.property_file is made.cwd is None
    assert made.environment == {"PATH": "/bin", INSTANCE_VARIABLE: instance_of(tmp_path)}
    assert made.config is not None
    assert properties(made.config["graph"]) == {"greeting": "ho", "key": "k"}
    assert (made.port, ports.held) == (0, set())


def test_a_plan_for_a_foreign_command(tmp_path: Path, ports: Ports) -> None:
    options = {"command": "run {property_file}", "cwd": "app", "max_workers": 2, "limits": {"processes": 9}}
    environ = {"PATH": "/bin", "KEY": "k", "OTHER": "x"}
    asked = start("plain", properties={"n": {"greeting": "${env:SECRET}"}})
    made = preparation(tmp_path, ports, environ, options).prepare(asked)
    assert made.foreign
    assert made.config is None
    assert made.command == ("run", "{property_file}")
    assert made.cwd == str(tmp_path / "app")
    assert made.environment == {
        "PATH": "/bin",
        "KEY": "k",
        "AGENTD_LITERAL_1": "${env:SECRET}",
        INSTANCE_VARIABLE: instance_of(tmp_path),
    }
    assert made.property_file is not None
    assert properties(json.loads(made.property_file)) == {
        "greeting": "${env:AGENTD_LITERAL_1}",
        "key": "${env:KEY|none}",
    }
    assert made.max_workers == 2
    assert made.limits.processes == 9


def test_a_graphs_own_command_comes_before_that_of_all(tmp_path: Path, ports: Ports) -> None:
    every = ("all", "{property_file}")
    assert preparation(tmp_path, ports, {}, worker_command=every).prepare(start("plain")).command == every
    own = preparation(tmp_path, ports, {}, {"command": ["own"]}, worker_command=every)
    assert own.prepare(start("plain")).command == ("own",)


@pytest.mark.parametrize(
    ("settings", "token"),
    [
        ({}, ""),
        ({"agora_app_id": "a" * 32}, "a" * 32),
        ({"agora_app_id": "a" * 32, "agora_app_certificate": "c" * 32}, "007"),
    ],
)
def test_the_token_of_a_graph_that_wants_one(
    tmp_path: Path, ports: Ports, settings: dict[str, str], token: str
) -> None:
    made = preparation(tmp_path, ports, {}, **settings).prepare(start("rtc", user_uid=7, bot_uid=9))
    assert made.config is not None
    found = properties(made.config["graph"])
    assert found.pop("token").startswith(token)
    assert found == {"app_id": "x", "channel": "lobby", "remote_stream_id": 7, "stream_id": 9}


def test_a_port_is_held_for_each_plan_that_has_one(tmp_path: Path, ports: Ports) -> None:
    made = preparation(tmp_path, ports, {"NEEDED": ""})
    one, other = made.prepare(start("http")), made.prepare(start("http"))
    assert one.port != other.port
    assert ports.held == {one.port, other.port}
    assert one.config is not None
    assert properties(one.config["graph"]) == {"need": "", "listen_port": one.port}


@pytest.mark.parametrize("options", [None, {"command": "x"}])
@pytest.mark.parametrize(
    ("settings", "overrides", "cause"),
    [
        ({}, {}, Cause.PLACEHOLDER_UNRESOLVED),
        ({"missing_env": "empty", "overridable": ("n.*",)}, {"http_server": {"a": 1}}, Cause.OVERRIDE_REFUSED),
        ({"missing_env": "empty"}, {"http_server": {"a": "${" + "x" * 70_000 + "}"}}, None),
    ],
)
def test_a_refusal_gives_the_port_back(
    tmp_path: Path,
    ports: Ports,
    options: dict[str, Any] | None,
    settings: dict[str, Any],
    overrides: dict[str, Any],
    cause: Cause | None,
) -> None:
    made = preparation(tmp_path, ports, {}, options, **settings)
    if cause is None and options is None:
        assert made.prepare(start("http", properties=overrides)).port in ports.held  # no variable has to hold it
        return
    with pytest.raises(Refusal) as caught:
        made.prepare(start("http", properties=overrides))
    assert caught.value.cause is (cause or Cause.BODY_INVALID)
    assert ports.held == set()


def test_an_unknown_graph_claims_no_port(tmp_path: Path, ports: Ports) -> None:
    with pytest.raises(Refusal) as caught:
        preparation(tmp_path, ports, {}).prepare(start("nobody"))
    assert caught.value.cause is Cause.GRAPH_UNKNOWN
    assert ports.held == set()
