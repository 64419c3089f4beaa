"""The demonstration: an embedded PostgreSQL, three replicas of a small application, and their output."""
