
-- Shows people, and replicas of the earlier system, who holds the migration lock. The lock itself is an advisory lock
-- (docs/lock.md).
CREATE TABLE {unless_there}{schema}.migration_lock (
    id integer PRIMARY KEY DEFAULT 1 CONSTRAINT single_lock_row CHECK (id = 1),
    {lock_columns}
);
