"""Files that were uploaded for agents."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table with its indexes."""
    op.create_table(
        "attachments",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("id", "task", "owner", "user", "instance", "name", "mime_type")
        ),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("status", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("text_bytes", sa.Integer),
        sa.Column("tokens", sa.Integer),
    )
    op.create_index("ix_attachments_id", "attachments", ["id"], unique=True)
    op.create_index("ix_attachments_task", "attachments", ["task"], unique=True)
    op.create_index("ix_attachments_created_at", "attachments", ["created_at"])
    is_open = sa.text("ended_at IS NULL")
    op.create_index("ix_attachments_open", "attachments", ["instance"], sqlite_where=is_open, postgresql_where=is_open)
