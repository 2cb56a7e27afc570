"""Commands for workers of ours: a frame down the pipe, a reply frame up."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Final

from supervisor.causes import Cause, Refusal
from supervisor.processes.link import LinkFullError
from worker.frames import Down, Frame, FrameError

SECONDS: Final = 5.0
MAX_ERROR: Final = 500


class Commands:
    """The commands of one channel that wait for their replies."""

    def __init__(self, send: Callable[[Frame], None]) -> None:
        """`send` writes a frame to the worker; raises FrameError, LinkFullError or OSError."""
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Frame]] = {}

    async def ask(self, payload: dict[str, Any]) -> Frame:
        """Have the worker's graph handle a command; its reply frame. Raises Refusal(COMMAND_UNDELIVERED)."""
        return await self._reply({"t": Down.COMMAND.value, "payload": payload}, Cause.COMMAND_UNDELIVERED)

    async def update(self, properties: dict[str, Any]) -> Frame:
        """Have the worker's nodes take new properties; its reply frame. Raises Refusal(UPDATE_REFUSED)."""
        return await self._reply({"t": Down.UPDATE.value, "properties": properties}, Cause.UPDATE_REFUSED)

    async def _reply(self, frame: Frame, cause: Cause) -> Frame:
        number = next(self._numbers)
        reply = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({**frame, "id": number})
            async with asyncio.timeout(SECONDS):
                answer: Frame = await reply
        except TimeoutError as error:  # before OSError, of which it is one
            raise Refusal(cause, f"no reply within {SECONDS:g} s") from error
        except (FrameError, LinkFullError, OSError) as error:
            raise Refusal(cause, f"the worker cannot be told: {error}") from error
        finally:
            del self._waiting[number]
        if not answer.get("ok"):
            raise Refusal(cause, f"the worker refused: {str(answer.get('error', ''))[:MAX_ERROR]}")
        return answer

    def answered(self, frame: Frame) -> None:
        """A reply frame came; one that nobody waits for any more is dropped."""
        number = frame.get("id")
        reply = self._waiting.get(number) if isinstance(number, int) else None
        if reply is not None and not reply.done():
            reply.set_result(frame)

    def close(self) -> None:
        """The worker has ended: nobody waits in vain."""
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(Refusal(Cause.COMMAND_UNDELIVERED, "the channel ended before its worker replied"))
