"""Connections to PostgreSQL: opening them, waiting on them with a deadline, naming what went wrong."""
