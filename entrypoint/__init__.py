"""Wait for PostgreSQL, bring its schema up to date exactly once, and become the application."""

__version__ = "0.1.0"
