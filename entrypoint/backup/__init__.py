"""A dump of the database, made by `pg_dump`, in a directory of its own: whole and checked, or not there at all."""
