"""Products"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    table = op.create_table(
        "products",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False, unique=True),
    )
    op.bulk_insert(table, [{"name": "apple"}, {"name": "pear"}])


def downgrade() -> None:
    op.drop_table("products")
