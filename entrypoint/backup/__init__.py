"""Back up the database with `pg_dump` into a directory. A backup is complete and checked, or does not exist."""
