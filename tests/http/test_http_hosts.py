"""Without a token only names are served that no page on the web can have pointed at this machine."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from supervisor.causes import Refusal
from supervisor.http.hosts import MOST_KNOWN, Hosts, name_of


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost.:8080", "localhost"),
        ("127.0.0.1:8080", "127.0.0.1"),
        ("[::1]:8080", "::1"),
        ("[::1]", "::1"),
        (" a.b ", "a.b"),
        ("", ""),
        (":80", ""),
        ("a:b", ""),
        ("::1", ""),
        ("[::1", ""),
        ("a]:80", ""),
        ("localhost:80:80", ""),
    ],
)
def test_names(header: str, name: str) -> None:
    assert name_of(header) == name


GOOD = ("localhost", "LOCALHOST:1", "app.localhost:80", "127.0.0.1", "10.1.2.3:80", "[::1]:80", "[fe80::1]", "box.lan")
BAD = (
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "notlocalhost",
    "127.0.0.1.evil.example",
    "1.2.3",
    "127.1",
    "0x7f000001",
    "agentd",
    "localhost evil",
    "localhost/",
    "[localhost.evil.example]",
    "",
    ".",
    "x" * 5000,
)


@pytest.mark.parametrize("header", GOOD)
def test_names_that_are_served(header: str) -> None:
    hosts = Hosts(("127.0.0.1", "Box.lan.", "::1"), ())
    hosts.admit(header)
    assert header in hosts.known


@pytest.mark.parametrize("header", BAD)
def test_names_that_are_not(header: str) -> None:
    hosts = Hosts(("0.0.0.0", "box.lan", "0.0.0.0"), ("*.example.org",))
    with pytest.raises(Refusal) as caught:
        hosts.admit(header)
    assert repr(header[:200]) in caught.value.detail
    assert "localhost, *.localhost, *.example.org, 0.0.0.0, box.lan; set" in caught.value.detail
    assert len(caught.value.detail) < 500
    assert hosts.known == {None}


@pytest.mark.parametrize(
    ("allowed", "header", "good"),
    [
        (("agentd",), "Agentd:8080", True),
        (("agentd",), "agentd.evil.example", False),
        (("*.example.org",), "a.b.example.org", True),
        (("*.example.org",), "example.org", False),
        (("*",), "anything.at.all", True),
        (("*",), "", False),
    ],
)
def test_names_that_are_allowed(allowed: tuple[str, ...], header: str, good: bool) -> None:
    hosts = Hosts(("127.0.0.1",), allowed)
    if good:
        hosts.admit(header)
    else:
        with pytest.raises(Refusal):
            hosts.admit(header)


def test_what_is_known_is_bounded() -> None:
    hosts = Hosts(("127.0.0.1",), ())
    for number in range(5000):
        hosts.admit(f"127.0.0.1:{number}")
        assert len(hosts.known) <= MOST_KNOWN


EVIL = {"Host": "evil.example:8080"}


async def test_a_page_that_has_pointed_its_name_here(house: Any) -> None:
    body = {"channel_name": "c", "graph_name": "greeter"}
    for path in ("/start", "/ping", "/stop", "/token/generate", "/vector/document/upload", "/nowhere"):
        answer = await house.post(path, body, headers=EVIL)
        assert (answer.status, answer.code, answer.body["data"]) == (403, "10000", None)
        assert "evil.example:8080" in answer.body["detail"]
        assert "AGENTD_ALLOWED_HOSTS" in answer.body["detail"]
        assert answer.headers["Agentd-Cause"] == "host_refused"
        assert "WWW-Authenticate" not in answer.headers
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    for path in ("/channels", "/channels/c/logs"):
        answer = await house.get(path, headers=EVIL)
        assert (answer.status, answer.body["error"]["cause"]) == (403, "host_refused")
    assert (await house.get("/health?details=1", headers=EVIL)).status == 403
    for path in ("/", "/health"):
        assert (await house.get(path, headers=EVIL)).status == 200
    assert (await house.ask("OPTIONS", "/start", headers=EVIL)).status == 204
    assert house.table.started == []
    assert (await house.post("/start", body, headers={"Host": "localhost:1"})).code == "0"


async def test_every_host_that_is_listened_on_is_a_name(build: Any) -> None:
    house = await build(also_listen="one.lan:0,two.lan:80", allow_unprotected=True)
    for name, status in (("one.lan:8090", 200), ("TWO.lan", 200), ("three.lan", 403)):
        assert (await house.get("/list", headers={"Host": name})).status == status


async def test_strict_statuses_do_not_change_it(build: Any) -> None:
    house = await build(strict_status=True)
    assert (await house.get("/list", headers=EVIL)).status == 403


@pytest.mark.parametrize("given", [{"token": "secret"}, {"allowed_hosts": "*"}, {"allowed_hosts": "a,EVIL.*"}])
async def test_where_every_name_will_do(build: Any, given: dict[str, str]) -> None:
    house = await build(**given)
    answer = await house.get("/list", headers={**EVIL, "Authorization": "Bearer secret"})
    assert answer.status == 200


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ({}, "info"),
        ({"host": "0.0.0.0", "allow_unprotected": True}, "warning"),
        ({"also_listen": "[::1]:0,[::]:0", "allow_unprotected": True}, "warning"),
        ({"token": "secret"}, None),
    ],
)
async def test_a_server_without_a_token_says_so(build: Any, given: dict[str, Any], level: str | None) -> None:
    with capture_logs() as logs:
        await build(**given)
    told = [line for line in logs if line["event"] == "server.unprotected"]
    assert [line["log_level"] for line in told] == ([level] if level else [])
