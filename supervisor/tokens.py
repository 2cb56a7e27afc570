"""Bearer tokens of users: JSON Web Tokens that somebody else signs with the secret this server has (docs/keys.md)."""

from collections.abc import Callable
from typing import Any, Final

import jwt

from supervisor.auth import FREE, JWT, SEPARATOR, Bounds, Principal, Scope
from supervisor.causes import Cause, Refusal

ALGORITHMS: Final = ("HS256",)
MOST_USER: Final = 256  # characters
_CHECKED: Final[Any] = {
    "verify_exp": True,
    **dict.fromkeys(("verify_nbf", "verify_iat", "verify_aud", "verify_iss", "verify_jti"), False),
}


class Tokens:
    """Checks tokens. Their `sub` is the user, `exp` is enforced if it is there, other claims are ignored."""

    def __init__(self, secret: str, bounds: Callable[[], Bounds] = lambda: FREE) -> None:
        """`bounds` tells those of each user."""
        self._bounds = bounds
        self._secret = secret.encode("utf-8", "surrogateescape")

    def principal(self, token: bytes) -> Principal:
        """Who sends this token: a user who may ask agents. Raises Refusal(TOKEN_INVALID | TOKEN_EXPIRED)."""
        try:
            claims = jwt.decode(token, self._secret, algorithms=ALGORITHMS, options=_CHECKED)
        except jwt.ExpiredSignatureError:
            raise Refusal(Cause.TOKEN_EXPIRED) from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
            raise Refusal(Cause.TOKEN_INVALID) from None
        return Principal(JWT, user_of(claims.get("sub")), scopes=frozenset({Scope.TURNS}), bounds=self._bounds())


def user_of(subject: object) -> str:
    """A token's subject as a principal's user: itself, but for the separator, which is none of a user's own.

    Raises Refusal(TOKEN_INVALID).
    """
    if not isinstance(subject, str) or not 0 < len(subject) <= MOST_USER or not subject.isprintable():
        raise Refusal(Cause.TOKEN_INVALID)
    return subject.replace("%", "%25").replace(SEPARATOR, "%2F")
