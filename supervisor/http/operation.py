"""What is said of one operation of the API. Data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pydantic import BaseModel

from supervisor.causes import Cause
from supervisor.http.schemas import Schema

JSON: Final = "application/json"


class Answer(NamedTuple):
    """A good answer: what it is, its content by type (none: no body), the headers it has besides those of all."""

    description: str
    content: Mapping[str, Schema]
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation. `refusals` are the causes it may be refused for, besides those of all operations."""

    method: str
    path: str
    name: str
    summary: str
    answers: Mapping[int, Answer]
    refusals: tuple[Cause, ...] = ()
    query: type[BaseModel] | None = None
    headers: tuple[str, ...] = ()
    body: type[BaseModel] | Schema | None = None
    body_type: str = JSON
    needs_body: bool = True
    failure: str = "Error"  # the schema of its refusals
    told_otherwise: Mapping[int, str] = field(default_factory=dict)  # statuses whose refusals have another schema
