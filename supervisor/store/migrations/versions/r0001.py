"""Conversations, turns and the ledger of channels."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _number() -> sa.Column[int]:
    return sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True)


def _text(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=nullable) for name in names]


def upgrade() -> None:
    """Make the three tables with their indexes."""
    op.create_table(
        "conversations",
        sa.Column("id", sa.Text, primary_key=True),
        *_text("graph", "user", "session"),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double, nullable=False),
        sa.Column("turns", sa.Integer, nullable=False),
        *_text("state", nullable=True),
    )
    op.create_index("ix_conversations_used_at", "conversations", ["used_at"])
    op.create_table(
        "turns",
        _number(),
        *_text("id"),
        sa.Column(
            "conversation",
            sa.Text,
            sa.ForeignKey("conversations.id", name="fk_turns_conversation", ondelete="CASCADE"),
        ),
        *_text("graph", "user"),
        *_text("session", nullable=True),
        *_text("instance", "channel", "kind", "source"),
        sa.Column("begun_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        *_text("cause", nullable=True),
        sa.Column("ms", sa.Double),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("remembered_bytes", sa.Integer),
        *_text("detail", nullable=True),
        *_text("messages"),
        *_text("input", nullable=True),
        *_text("attachments"),
        *_text("text", "thoughts", "tool_calls", "sources", "structured", "usage", "value", nullable=True),
    )
    op.create_index("ix_turns_id", "turns", ["id"], unique=True)
    op.create_index("ix_turns_conversation_number", "turns", ["conversation", "number"])
    op.create_index("ix_turns_begun_at", "turns", ["begun_at"])
    _create_open_index("turns")
    op.create_table(
        "ledger",
        _number(),
        *_text("id", "name", "graph", "user"),
        *_text("session", nullable=True),
        *_text("source", "instance"),
        sa.Column("claimed_at", sa.Double, nullable=False),
        sa.Column("ready_at", sa.Double),
        sa.Column("pid", sa.Integer),
        sa.Column("pings", sa.Integer, nullable=False),
        sa.Column("last_ping_at", sa.Double),
        sa.Column("turns", sa.Integer, nullable=False),
        sa.Column("ended_at", sa.Double),
        *_text("cause", "detail", nullable=True),
        sa.Column("status", sa.Integer),
        sa.Column("processes", sa.Integer),
        sa.Column("killed", sa.Integer),
        sa.Column("seconds", sa.Double),
    )
    op.create_index("ix_ledger_id", "ledger", ["id"], unique=True)
    op.create_index("ix_ledger_name_number", "ledger", ["name", "number"])
    op.create_index("ix_ledger_claimed_at", "ledger", ["claimed_at"])
    _create_open_index("ledger")


def _create_open_index(table: str) -> None:
    condition = sa.text("ended_at IS NULL")
    op.create_index(f"ix_{table}_open", table, ["instance"], sqlite_where=condition, postgresql_where=condition)
