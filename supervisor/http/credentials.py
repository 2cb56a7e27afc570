"""Who asks: found by the secret in a header, or by a key that DocsGPT's clients send in the body or the form."""

from typing import TYPE_CHECKING, Final

from aiohttp import web

from supervisor.auth import ANYBODY, SEPARATOR, Principal, Scope
from supervisor.causes import Cause, Refusal
from supervisor.http.principals import enter, require
from supervisor.http.request_keys import PRINCIPAL

if TYPE_CHECKING:
    from supervisor.keys import Keyring
    from supervisor.tokens import Tokens


LOCAL_USER: Final = "local"  # as published: whoever asks an open server


class Credentials:
    """What callers are known by: the token, keys, and tokens of users if the server has the secret of those."""

    def __init__(self, keyring: "Keyring", tokens: "Tokens | None" = None) -> None:
        self._keyring = keyring
        self._tokens = tokens

    @property
    def open(self) -> bool:
        """Whether anybody may call."""
        return self._keyring.open

    def look(self) -> None:
        """Take note of keys that were made or revoked."""
        self._keyring.look()

    def principal(self, secret: bytes | None) -> Principal | None:
        """Who sends this secret; None: nobody who may call. Raises Refusal(TOKEN_INVALID | TOKEN_EXPIRED)."""
        known = self._keyring.principal(secret)
        if known is None and secret is not None and self._tokens is not None:
            return self._tokens.principal(secret)
        return known

    # ------------------------------------------------------------------ DocsGPT's two ways (wire/docsgpt.md section 3)

    def bearer(self, secret: bytes | None) -> Principal | None:
        """Who a header says asks; None: it says nothing that counts. Raises Refusal(TOKEN_INVALID | TOKEN_EXPIRED)."""
        if secret is None:
            return None
        known = self._keyring.find(secret)
        if known is None and self._tokens is not None:
            return self._tokens.principal(secret)
        return known

    def take_key(self, request: web.Request, api_key: str | None) -> None:
        """Let a key decide who asks; "" and None are none.

        Raises Refusal(KEY_UNKNOWN), and Refusal(SCOPE_MISSING | ORIGIN_REFUSED) for one that may not ask so.
        """
        if not api_key:
            return
        principal = self._keyring.find(api_key.encode("utf-8", "surrogatepass"))
        if principal is None:
            raise Refusal(Cause.KEY_UNKNOWN)
        enter(request, principal)
        require(request, Scope.TURNS)

    @staticmethod
    def owner(principal: Principal) -> str:
        """The user whose conversations and attachments a principal has; of one without a user, a name that none has."""
        if principal.user:
            return principal.user
        return LOCAL_USER if principal is ANYBODY else f"{SEPARATOR}{principal.name}"

    def caller(self, request: web.Request) -> Principal:
        """Who asks: by the key, else by the header, else anybody while the server is open.

        Raises Refusal(UNAUTHORIZED).
        """
        principal = request.get(PRINCIPAL)
        if principal is None:
            self._keyring.look()
            if not self._keyring.open:
                raise Refusal(Cause.UNAUTHORIZED)
            principal = request[PRINCIPAL] = ANYBODY
        return principal
