"""Connections to PostgreSQL: opening them, waiting on them with a deadline, and finding the causes of errors."""
