"""The built-in add-ons, one module each. The table is what a graph may name without installing anything."""

from collections.abc import Mapping
from typing import Final

BUILT_IN: Final[Mapping[str, str]] = {
    "broken": "worker.addons.broken:Broken",
    "echo": "worker.addons.echo:Echo",
    "friday": "worker.addons.friday:Friday",
    "invoke_only": "worker.addons.invoke_only:InvokeOnly",
    "meeting_room": "worker.addons.meeting_room:MeetingRoom",
    "message_collector": "worker.addons.message_collector:MessageCollector",
    "openai_chatgpt": "worker.addons.openai_chatgpt:OpenAIChatGPT",
    "openai_chatgpt_python": "worker.addons.openai_chatgpt:OpenAIChatGPT",
    "raises": "worker.addons.raises:Raises",
}
