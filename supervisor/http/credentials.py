"""Who asks by DocsGPT's API, whose key may stand in the body or the form: told in two steps (wire/docsgpt.md section 3).

The door has looked at the header by then: what it found is with the request.
"""

from typing import TYPE_CHECKING

from aiohttp import web

from supervisor.auth import ANYBODY, Principal
from supervisor.causes import Cause, Refusal
from supervisor.http.request_keys import NOTES, PRINCIPAL

if TYPE_CHECKING:
    from supervisor.keys import Keyring


class Credentials:
    """Finds out who asks, by a key in the request or by what its header said."""

    def __init__(self, keyring: "Keyring") -> None:
        self._keyring = keyring

    def take_key(self, request: web.Request, api_key: str | None) -> None:
        """Let a key decide who asks; "" and None are none. Raises Refusal(KEY_UNKNOWN)."""
        if not api_key:
            return
        principal = self._keyring.find(api_key.encode("utf-8", "surrogatepass"))
        if principal is None:
            raise Refusal(Cause.KEY_UNKNOWN)
        request[PRINCIPAL] = principal
        request[NOTES] = {**request.get(NOTES, {}), "key": principal.name}

    def caller(self, request: web.Request) -> Principal:
        """Who asks: by the key, else by the header, else anybody while the server is open.

        Raises Refusal(UNAUTHORIZED).
        """
        principal = request.get(PRINCIPAL)
        if principal is None:
            if not self._keyring.open:
                raise Refusal(Cause.UNAUTHORIZED)
            principal = request[PRINCIPAL] = ANYBODY
        return principal
