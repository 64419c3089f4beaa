"""All that knows a column of ours: reading `schema_migrations` and `migration_lock`, making and writing them."""
