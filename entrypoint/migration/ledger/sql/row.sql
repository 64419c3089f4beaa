-- Its only row, free: whoever takes the lock finds it there.
INSERT INTO {schema}.migration_lock (id) VALUES (1) ON CONFLICT (id) DO NOTHING;

