"""On PYTHONPATH: makes the program unable to find psycopg's libpq, so that it uses the system's, which may be older."""

from entrypoint.database import libpq

libpq.bundled = lambda: None
