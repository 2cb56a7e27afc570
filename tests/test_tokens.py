"""Tokens of users: what is accepted, and what each fault is told as."""

import base64
import json
import time
from typing import Any

import jwt
import pytest

from supervisor.auth import Bounds, Principal, Scope
from supervisor.causes import Cause, Refusal
from supervisor.tokens import MOST_USER, Tokens, user_of

SECRET = "a secret of at least thirty-two bytes"
OTHER = "another secret of thirty-two bytes!!"
TOKENS = Tokens(SECRET)


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> bytes:
    return jwt.encode({"sub": "ada", **claims}, secret, algorithm=algorithm).encode()


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def cause_of(token: bytes) -> Cause:
    with pytest.raises(Refusal) as caught:
        TOKENS.principal(token)
    assert SECRET not in str(caught.value)
    assert len(token) < 8 or token.decode("latin-1") not in caught.value.detail
    return caught.value.cause


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"exp": int(time.time()) + 86_400},
        {"exp": time.time() + 86_400.5},
        {"iat": int(time.time()) + 10_000, "nbf": int(time.time()) + 10_000},  # other claims are ignored
        {"aud": "somebody else", "iss": "x", "jti": 7, "admin": True},
    ],
)
def test_good_ones(claims: dict[str, Any]) -> None:
    assert TOKENS.principal(signed(**claims)) == Principal("jwt", "ada", scopes=frozenset({Scope.TURNS}))


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"x",
        b"a.b.c",
        b"..",
        b"\xff\xfe.\xff.\xff",
        b"agentd_01234567_" + b"x" * 43,
        b"[" * 30_000,
        f"{part([[[[]]]])}.{part({})}.x".encode(),
        ("[" * 20_000).encode().hex().encode() + b".a.b",
        base64.urlsafe_b64encode(b"[" * 20_000) + b".e30.x",
        signed(OTHER),
        signed(SECRET * 2, algorithm="HS512"),
        signed(SECRET * 2, algorithm="HS384"),
        f"{part({'alg': 'none'})}.{part({'sub': 'ada'})}.".encode(),
        f"{part({'alg': 'HS256', 'crit': ['x']})}.{part({'sub': 'ada'})}.x".encode(),
        signed()[:-2],
        signed() + b"A",
        signed(sub=""),
        signed(sub="\n"),
        signed(sub="a\0b"),
        signed(sub="x" * (MOST_USER + 1)),
        signed(exp="soon"),
        signed(exp=[]),
        jwt.encode({"name": "ada"}, SECRET, algorithm="HS256").encode(),
    ],
)
def test_bad_ones(token: bytes) -> None:
    assert cause_of(token) is Cause.TOKEN_INVALID


@pytest.mark.parametrize("subject", [7, None, True, ["ada"], {"id": "ada"}])
def test_a_subject_that_is_no_text(subject: Any) -> None:
    token = ".".join((part({"alg": "HS256", "typ": "JWT"}), part({"sub": subject})))
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    made = signature.sign(token.encode(), SECRET.encode())
    assert cause_of(token.encode() + b"." + base64.urlsafe_b64encode(made).rstrip(b"=")) is Cause.TOKEN_INVALID


def test_an_expired_one() -> None:
    assert cause_of(signed(exp=int(time.time()) - 1)) is Cause.TOKEN_EXPIRED
    assert cause_of(signed(OTHER, exp=1)) is Cause.TOKEN_INVALID


def test_each_user_has_limits_of_its_own() -> None:
    bounds = Bounds(turns_per_minute=5, channels=2)
    ada, bob = (Tokens(SECRET, lambda: bounds).principal(signed(sub=user)) for user in ("ada", "bob"))
    assert ada.bounds == bob.bounds == bounds
    assert len({ada.account, bob.account, Principal("jwt2").account, Principal("k", "ada").account}) == 4


@pytest.mark.parametrize(
    ("subject", "user"),
    [
        ("ada", "ada"),
        ("ada@example.com", "ada@example.com"),
        ("Zoë Ünal", "Zoë Ünal"),
        ("org/ada", "org%2Fada"),
        ("org%2Fada", "org%252Fada"),
        ("../../etc", "..%2F..%2Fetc"),
    ],
)
def test_a_user_has_no_separator_and_is_nobody_else(subject: str, user: str) -> None:
    assert user_of(subject) == user
