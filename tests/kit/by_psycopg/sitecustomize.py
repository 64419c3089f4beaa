"""On PYTHONPATH: makes the program unable to load libpq itself, so that it uses psycopg."""

from entrypoint.database import libpq

libpq.load = lambda: None
