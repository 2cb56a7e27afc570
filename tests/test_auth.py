"""Keys, their file's document and the principals they stand for, by tables."""

import hashlib
import json
from typing import Any

import pytest

from supervisor.auth import (
    ANYBODY,
    EVERY,
    MASTER,
    KeyRow,
    KeysError,
    KeyTable,
    Principal,
    Scope,
    dump,
    graph_of,
    make_key,
    masked,
    parse,
    scopes_of,
    user_of,
)

DIGEST = "ab" * 32
ROW = {"id": "0123abcd", "digest": DIGEST, "user": "alice", "graph": None, "scopes": ["turns"], "created_at": 1}


def drawn(count: int) -> bytes:
    return bytes(range(200, 200 + count))


def made(**bound: Any) -> tuple[str, KeyRow]:
    return make_key(drawn, **{"user": "", "graph": None, "scopes": [Scope.TURNS], "created_at": 7, **bound})


def test_a_key_and_its_row() -> None:
    text, row = made(user="alice", graph="friday", scopes=[Scope.OPS, Scope.TURNS])
    prefix, key_id, secret = text.split("_", 2)
    assert (prefix, key_id, len(secret), len(text)) == ("agentd", "c8c9cacb", 43, 59)
    assert row == KeyRow(
        key_id, hashlib.sha256(text.encode()).hexdigest(), "alice", "friday", frozenset({Scope.TURNS, Scope.OPS}), 7
    )
    assert secret not in repr(row)
    assert row.principal == Principal(key_id, "alice", "friday", frozenset({Scope.TURNS, Scope.OPS}))
    shown = {"id": key_id, "user": "alice", "graph": "friday", "scopes": ["turns", "ops"], "created_at": 7}
    shown |= {"turns_per_minute": None, "channels": None, "origins": []}
    assert row.shown == shown


def test_keys_are_found_by_the_whole_of_them() -> None:
    text, row = made()
    table = KeyTable([row])
    assert len(table) == 1
    assert table.find(text.encode()) == row.principal
    wrong = [
        text[:-1],
        f"{text}x",
        text.upper(),
        text.replace("c8c9cacb", "00000000"),
        row.digest,
        row.id,
        "",
        "x" * 9999,
    ]
    for secret in [*wrong, text[:-1] + chr(ord(text[-1]) ^ 1)]:
        assert table.find(secret.encode()) is None
        assert KeyTable().find(secret.encode()) is None
    assert table.find(b"\xff" * 59) is None


@pytest.mark.parametrize("scope", Scope)
def test_who_may_what(scope: Scope) -> None:
    assert ANYBODY.allows(scope)
    assert MASTER.allows(scope)
    assert Principal("k", scopes=frozenset({scope})).allows(scope)
    assert not Principal("k", scopes=EVERY - {scope}).allows(scope)
    assert (ANYBODY.name, MASTER.name, ANYBODY.user, MASTER.graph) == ("anybody", "token", "", None)


def test_a_document_comes_back() -> None:
    rows = (made()[1], KeyRow("00000001", DIGEST, "a@b.c", "ünï", EVERY, 0))
    assert parse(dump(rows)) == rows
    assert parse(dump([])) == ()
    assert json.loads(dump(rows))["keys"][1]["scopes"] == ["turns", "control", "ops"]


@pytest.mark.parametrize("data", [b"", b"\n", b" \t\r\n"])
def test_a_file_of_nothing_has_no_keys(data: bytes) -> None:
    assert parse(data) == ()


def document(**changed: Any) -> Any:
    return {"version": 1, "keys": [ROW | {"id": "00000000"}, ROW | changed]}


def without(name: str) -> Any:
    return {key: value for key, value in ROW.items() if key != name}


BAD: list[tuple[Any, str]] = [
    ([], "the document is []; allowed: an object"),
    ({"version": 1}, "the document has no keys; needed: version, keys"),
    ({"version": 1, "keys": [], "kys": 1}, "the document has a field 'kys'; allowed: version, keys"),
    ({"version": 2, "keys": []}, "version is 2; allowed: 1"),
    ({"version": True, "keys": []}, "version is True; allowed: 1"),
    ({"version": 1, "keys": {}}, "keys is {}; allowed: a list of keys"),
    ({"version": 1, "keys": [5]}, "keys[0] is 5; allowed: an object"),
    ({"version": 1, "keys": [without("scopes")]}, "keys[0] has no scopes; needed: id, digest, user, graph, scopes"),
    ({"version": 1, "keys": [ROW, ROW]}, "keys[1].id is '0123abcd', as that of another key; allowed: an id once"),
    (document(expires=5), "keys[1] has a field 'expires'; allowed: id, digest, user, graph, scopes, created_at"),
    (document(id="0123ABCD"), "keys[1].id is '0123ABCD'; allowed: 8 hexadecimal digits"),
    (document(id=7), "keys[1].id is 7; allowed: 8 hexadecimal digits"),
    (document(digest=DIGEST[:-1]), "keys[1].digest is no SHA-256; allowed: 64 hexadecimal digits"),
    (document(digest=None), "keys[1].digest is no SHA-256; allowed: 64 hexadecimal digits"),
    (document(user="a/b"), "keys[1].user is 'a/b'; allowed: 1 to 64 of A-Z a-z 0-9 . _ @ -"),
    (document(user="a\n"), "keys[1].user is 'a\\n'; allowed: 1 to 64 of"),
    (document(user="ä"), "keys[1].user is 'ä'; allowed: 1 to 64 of"),
    (document(user=None), "keys[1].user is None; allowed: 1 to 64 of"),
    (document(user="a." * 33), "keys[1].user is 'a.a.a."),
    (document(graph=""), "keys[1].graph is ''; allowed: the name of a graph, at most 1024 bytes"),
    (document(graph=5), "keys[1].graph is 5; allowed: the name of a graph"),
    (document(graph="a\0"), "keys[1].graph is 'a\\x00'; allowed: the name of a graph"),
    (document(scopes=[]), "keys[1].scopes is []; allowed: a list of turns, control, ops"),
    (document(scopes="turns"), "keys[1].scopes is 'turns'; allowed: a list of turns, control, ops"),
    (document(scopes=["turns", "all"]), "keys[1].scopes is 'all'; allowed: turns, control, ops"),
    (document(scopes=[["turns"]]), "keys[1].scopes is ['turns']; allowed: turns, control, ops"),
    (document(created_at=1.5), "keys[1].created_at is 1.5; allowed: whole seconds since 1970"),
    (document(created_at=True), "keys[1].created_at is True; allowed: whole seconds since 1970"),
    (document(created_at=-1), "keys[1].created_at is -1; allowed"),
    (document(created_at=10**15), "keys[1].created_at is 1000000000000000; allowed"),
]


@pytest.mark.parametrize(("given", "told"), BAD, ids=[told[:40] for _, told in BAD])
def test_faults_name_place_value_and_what_is_allowed(given: Any, told: str) -> None:
    with pytest.raises(KeysError) as caught:
        parse(json.dumps(given).encode())
    assert str(caught.value).startswith(told)
    assert "allowed: " in str(caught.value) or "needed: " in str(caught.value)
    assert DIGEST[:-1] not in str(caught.value)


@pytest.mark.parametrize("data", [b"{", b"\xff", b'{"version": NaN}', b"\xef\xbb\xbf{}", b"[" * 200])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(KeysError, match="line 1, column"):
        parse(data)


TEXT = made()[0]


@pytest.mark.parametrize("value", [TEXT, [TEXT], {"key": TEXT}, {"digest": DIGEST}, f"x {TEXT} y"])
@pytest.mark.parametrize("field", ["id", "user", "digest", "graph", "scopes", "created_at", "other"])
def test_no_fault_shows_a_key(field: str, value: Any) -> None:
    if value == {"digest": DIGEST}:
        assert DIGEST[:20] not in masked(value)
    with pytest.raises(KeysError) as caught:
        parse(json.dumps(document(**{field: value})).encode())
    assert TEXT[17:30] not in str(caught.value)
    assert DIGEST[:20] not in str(caught.value)
    with pytest.raises(KeysError) as caught:
        parse(json.dumps(document(**{str(value): 1})).encode())
    assert TEXT[17:30] not in str(caught.value)


def test_what_the_command_line_checks() -> None:
    assert (user_of("", "u"), user_of("a.B_9@x-y", "u"), user_of("x" * 64, "u")) == ("", "a.B_9@x-y", "x" * 64)
    assert (graph_of(None, "g"), graph_of("my graph", "g")) == (None, "my graph")
    assert scopes_of(["ops", "turns", "ops"], "s") == {Scope.OPS, Scope.TURNS}
    for check, value in ((user_of, "x" * 65), (graph_of, ""), (scopes_of, ["x"]), (graph_of, "ä" * 513)):
        with pytest.raises(KeysError, match=r"--it is .*; allowed: "):
            check(value, "--it")
    assert len(masked("a b " * 100)) == 64
