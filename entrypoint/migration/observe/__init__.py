"""What PostgreSQL says of a statement that runs, and where that is shown."""
