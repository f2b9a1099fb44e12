"""Tool calls of completions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give the bank a column for the tool calls that a model asked for."""
    op.add_column("completions", sa.Column("tool_calls", sa.Text(), nullable=True))
