"""Which process may migrate: taking the migration lock, keeping it, waiting for it."""
