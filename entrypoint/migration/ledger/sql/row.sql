-- The only row, free. Taking the lock updates it.
INSERT INTO {schema}.migration_lock (id) VALUES (1) ON CONFLICT (id) DO NOTHING;

