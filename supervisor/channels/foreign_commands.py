"""Commands for foreign workers: an HTTP request to the port injected into their graph (wire/ten.md section 10)."""

from typing import Any, Final

import aiohttp

from supervisor.causes import Cause, Refusal

HOST: Final = "127.0.0.1"
PATH: Final = "/cmd"
SECONDS: Final = 5.0  # in all: to connect, to send, and until the answer's status
OK: Final = 200


async def deliver(port: int, payload: dict[str, Any]) -> None:
    """POST `payload` as JSON to the worker that listens on `port`; only the status of its answer counts.

    `port` 0: the graph has no node a port is injected into. Raises Refusal(COMMAND_UNDELIVERED).
    """
    if not port:
        raise Refusal(Cause.COMMAND_UNDELIVERED, "the graph has no node with an injected port to send commands to")
    url = f"http://{HOST}:{port}{PATH}"
    # One session for one command: commands are rare, and a kept connection would outlive its worker.
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
        try:
            async with session.post(url, json=payload, allow_redirects=False) as response:
                status = response.status
        except TimeoutError as error:
            raise Refusal(Cause.COMMAND_UNDELIVERED, f"{url} did not answer within {SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Refusal(Cause.COMMAND_UNDELIVERED, f"{url} cannot be reached: {error}") from error
    if status != OK:
        raise Refusal(Cause.COMMAND_UNDELIVERED, f"{url} answered with status {status}; only {OK} is success")
