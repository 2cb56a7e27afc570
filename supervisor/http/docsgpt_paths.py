"""The paths of DocsGPT's API: callers may tell in the body who they are, and headers are as published. Pure."""

from typing import Final

HEALTH: Final = "/api/health"
TASK: Final = "/api/task_status"
PATHS: Final = frozenset({"/api/answer", "/stream", "/api/store_attachment", TASK, HEALTH, "/api/feedback"})
CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "Content-Type, Authorization, Idempotency-Key",
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
}
