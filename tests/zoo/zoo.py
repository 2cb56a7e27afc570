"""Add-ons that misbehave, each in one way. Found by their entry points when this folder is on PYTHONPATH."""

import asyncio

from worker.agent import Node


class Sleeper(Node):
    """Never gets ready."""

    async def start(self) -> None:
        await asyncio.Event().wait()
