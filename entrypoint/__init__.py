"""Wait for PostgreSQL, bring its schema up to date exactly once, and exec the application."""

__version__ = "0.1.0"
