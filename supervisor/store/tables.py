"""The tables as they are now; how they came to be is in the migrations. Column types suit SQLite and PostgreSQL.

JSON stands in text columns: it is never searched, and PostgreSQL's own types refuse what agents may say. The short
columns come first, so that SQLite reads them without the long ones.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

VERSION_TABLE: Final = "agentd_schema"

metadata: Final = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "fk": "fk_%(table_name)s_%(column_0_N_name)s"}
)


def _number() -> Column[int]:
    """What rows are ordered and told apart by: in SQLite the row's own number."""
    return Column("number", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)


conversations: Final = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("graph", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("used_at", Double, nullable=False, index=True),
    Column("turns", Integer, nullable=False),
    Column("state", Text),
)

turns: Final = Table(
    "turns",
    metadata,
    _number(),
    Column("id", Text, nullable=False),
    Column("conversation", Text, ForeignKey(conversations.c.id, ondelete="CASCADE")),
    Column("graph", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("session", Text),
    Column("instance", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("begun_at", Double, nullable=False, index=True),
    Column("ended_at", Double),
    Column("cause", Text),
    Column("ms", Double),
    Column("bytes", Integer, nullable=False),  # of the whole turn
    Column("remembered_bytes", Integer),  # of what a history holds of it; null: nothing
    Column("detail", Text),
    Column("messages", Text, nullable=False),
    Column("input", Text),
    Column("attachments", Text, nullable=False),
    Column("text", Text),
    Column("thoughts", Text),
    Column("tool_calls", Text),
    Column("sources", Text),
    Column("structured", Text),
    Column("usage", Text),
    Column("value", Text),
)
Index("ix_turns_id", turns.c.id, unique=True)
Index("ix_turns_conversation_number", turns.c.conversation, turns.c.number)

ledger: Final = Table(
    "ledger",
    metadata,
    _number(),
    Column("id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("graph", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("session", Text),
    Column("source", Text, nullable=False),
    Column("instance", Text, nullable=False),
    Column("claimed_at", Double, nullable=False, index=True),
    Column("ready_at", Double),
    Column("pid", Integer),
    Column("pings", Integer, nullable=False),
    Column("last_ping_at", Double),
    Column("turns", Integer, nullable=False),
    Column("ended_at", Double),
    Column("cause", Text),
    Column("detail", Text),
    Column("status", Integer),
    Column("processes", Integer),
    Column("killed", Integer),
    Column("seconds", Double),
)
Index("ix_ledger_id", ledger.c.id, unique=True)
Index("ix_ledger_name_number", ledger.c.name, ledger.c.number)

# What was answered by an API, as that API has it. JSON that is given back byte by byte stands in columns of bytes.
responses: Final = Table(
    "responses",
    metadata,
    _number(),
    Column("id", Text, nullable=False),
    Column("turn", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("graph", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("instance", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", Double, nullable=False, index=True),
    Column("ended_at", Double),
    Column("body", LargeBinary, nullable=False),
    Column("input", LargeBinary, nullable=False),
)
Index("ix_responses_id", responses.c.id, unique=True)

# Files that were uploaded for agents; they lie in a folder, this tells whose they are and what has become of them.
attachments: Final = Table(
    "attachments",
    metadata,
    _number(),
    Column("id", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("owner", Text, nullable=False),  # the user's digest, of a length that an index takes
    Column("user", Text, nullable=False),
    Column("instance", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("mime_type", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False, index=True),
    Column("ended_at", Double),
    Column("status", Text),
    Column("detail", Text),
    Column("text_bytes", Integer),
    Column("tokens", Integer),
)
Index("ix_attachments_id", attachments.c.id, unique=True)
Index("ix_attachments_task", attachments.c.task, unique=True)


def add_partial_indexes() -> None:
    """Tell the tables of their indexes of what has not ended: few rows of many, looked for when a server starts.

    Only what compares the tables with a database needs it, and it loads the dialect of every database that is named.
    """
    for table in (turns, ledger, responses, attachments):
        if (name := f"ix_{table.name}_open") not in {index.name for index in table.indexes}:
            is_open = table.c.ended_at.is_(None)
            Index(name, table.c.instance, sqlite_where=is_open, postgresql_where=is_open)
