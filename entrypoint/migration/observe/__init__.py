"""What PostgreSQL reports about a running statement, and the board that shows it."""
