"""Tokens: decoded by hand after the layout in wire/ten.md section 9, the signature computed anew."""

import base64
import hashlib
import hmac
import struct
import time
import zlib
from typing import Any

import pytest

from supervisor.agora import build_token
from supervisor.causes import Cause, Refusal

APP_ID = "0123456789abcdef0123456789abcdef"
CERTIFICATE = "fedcba9876543210fedcba9876543210"


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        (value,) = struct.unpack("<" + form, self.data[:size])
        self.data = self.data[size:]
        return int(value)

    def text(self) -> bytes:
        size = self.number("H")
        value, self.data = self.data[:size], self.data[size:]
        return value

    def mapping(self) -> dict[int, int]:
        return {self.number("H"): self.number("I") for _ in range(self.number("H"))}


def decode(token: str) -> dict[str, Any]:
    assert token[:3] == "007"
    outer = Reader(zlib.decompress(base64.b64decode(token[3:])))
    signature = outer.text()
    info = outer.data
    reader = Reader(info)
    found: dict[str, Any] = {"app_id": reader.text().decode(), "issued": reader.number("I")}
    found |= {"expire": reader.number("I"), "salt": reader.number("I")}
    assert reader.number("H") == 2
    found["rtc"] = (reader.number("H"), reader.mapping(), reader.text().decode(), reader.text().decode())
    found["rtm"] = (reader.number("H"), reader.mapping(), reader.text().decode())
    assert reader.data == b""
    key = hmac.digest(struct.pack("<I", found["issued"]), CERTIFICATE.encode(), hashlib.sha256)
    key = hmac.digest(struct.pack("<I", found["salt"]), key, hashlib.sha256)
    assert signature == hmac.digest(key, info, hashlib.sha256)
    return found


@pytest.mark.parametrize("uid", [0, 4711, 2**32 - 1])
def test_the_layout(uid: int) -> None:
    day = 86_400
    found = decode(build_token(APP_ID, CERTIFICATE, "日本語 lobby", uid))
    assert (found["app_id"], found["expire"]) == (APP_ID, day)
    assert abs(found["issued"] - time.time()) < 10
    assert 1 <= found["salt"] <= 99_999_999
    assert found["rtc"] == (1, {1: day, 2: day, 3: day, 4: day}, "日本語 lobby", str(uid))
    assert found["rtm"] == (2, {1: day}, str(uid))


@pytest.mark.parametrize(
    ("app_id", "certificate", "name", "word"),
    [
        ("", CERTIFICATE, "x", "AGORA_APP_ID"),
        ("short", CERTIFICATE, "x", "32 hexadecimal"),
        (APP_ID, "short", "x", "32 hexadecimal"),
        (APP_ID, CERTIFICATE, "x" * 65_536, "65536 bytes"),
    ],
)
def test_what_makes_no_token(app_id: str, certificate: str, name: str, word: str) -> None:
    with pytest.raises(Refusal) as caught:
        build_token(app_id, certificate, name, 1)
    assert caught.value.cause is Cause.TOKEN_FAILED
    assert word in caught.value.detail
    assert certificate not in caught.value.detail


async def test_the_endpoint(build: Any) -> None:
    house = await build()
    body = {"request_id": "t1", "channel_name": "lobby", "uid": 4711}
    assert (await house.post("/token/generate", body)).code == "10005"
    assert (await house.post("/token/generate", {"uid": 1})).code == "10004"
    await house.session.close()
    house = await build(agora_app_id=APP_ID)
    assert (await house.post("/token/generate", body)).body["data"] == {
        "appId": APP_ID,
        "token": APP_ID,
        "channel_name": "lobby",
        "uid": 4711,
    }
    await house.session.close()
    house = await build(agora_app_id=APP_ID, agora_app_certificate=CERTIFICATE)
    answer = await house.post("/token/generate", {"channel_name": "lobby"})
    assert answer.body["data"]["uid"] == 0
    assert decode(answer.body["data"]["token"])["rtc"][2:] == ("lobby", "0")
    assert CERTIFICATE.encode() not in answer.content
