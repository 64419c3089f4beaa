"""The DDL of the bookkeeping."""
