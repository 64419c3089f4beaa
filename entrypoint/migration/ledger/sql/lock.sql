
-- Who holds the migration lock, for people and for replicas of the earlier system. The lock itself is an advisory
-- lock of PostgreSQL's (docs/lock.md).
CREATE TABLE {unless_there}{schema}.migration_lock (
    id integer PRIMARY KEY DEFAULT 1 CONSTRAINT single_lock_row CHECK (id = 1),
    {lock_columns}
);
