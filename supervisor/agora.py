"""Agora access tokens for a channel's RTC and RTM (wire/ten.md section 9)."""

import struct
import warnings
from typing import Final

from supervisor.causes import Cause, Refusal

with warnings.catch_warnings():
    # The package warns of its own oldest modules whenever any of it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    from agoraiotools import RtcTokenBuilder2

EXPIRE_SECONDS: Final = 86_400
PUBLISHER: Final = 1


def build_token(app_id: str, certificate: str, channel_name: str, uid: int) -> str:
    """The token with which `uid` joins and publishes in `channel_name` for a day.

    Without a certificate the app id itself is the token. Raises Refusal(TOKEN_FAILED) when there is no app id, when
    id or certificate are not 32 hexadecimal digits, or when the channel name is longer than a token can carry.
    """
    if not app_id:
        raise Refusal(Cause.TOKEN_FAILED, "AGORA_APP_ID is not set")
    if not certificate:
        return app_id
    try:
        token = str(
            RtcTokenBuilder2.build_token_with_rtm(
                app_id, certificate, channel_name, str(uid), PUBLISHER, EXPIRE_SECONDS, EXPIRE_SECONDS
            )
        )
    except struct.error as error:
        raise Refusal(
            Cause.TOKEN_FAILED, f"channel_name has {len(channel_name.encode())} bytes; a token holds at most 65535"
        ) from error
    if not token:
        raise Refusal(Cause.TOKEN_FAILED, "AGORA_APP_ID and AGORA_APP_CERTIFICATE must each be 32 hexadecimal digits")
    return token
