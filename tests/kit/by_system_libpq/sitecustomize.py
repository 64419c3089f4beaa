"""On PYTHONPATH: a program that does not find psycopg's libpq, and takes the system's, which may be an older one."""

from entrypoint.database import libpq

libpq.bundled = lambda: None
