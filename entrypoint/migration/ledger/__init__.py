"""Everything that knows the columns of our tables: creating, reading and writing them, and planning from their rows."""
