"""What tests run agentd with: the real server as a process, and a look at what is left."""

from tests.harness import leaks
from tests.harness.server import Agentd

__all__ = ["Agentd", "leaks"]
