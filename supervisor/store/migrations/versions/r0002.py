"""What was answered, kept for those who ask for it again."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table with its indexes."""
    op.create_table(
        "responses",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("id", "turn", "source", "graph", "user", "session", "instance", "status")
        ),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("input", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_responses_id", "responses", ["id"], unique=True)
    op.create_index("ix_responses_created_at", "responses", ["created_at"])
    is_open = sa.text("ended_at IS NULL")
    op.create_index("ix_responses_open", "responses", ["instance"], sqlite_where=is_open, postgresql_where=is_open)
