"""On PYTHONPATH: a program that finds no libpq of its own to load, so that psycopg has to reach it."""

from entrypoint.database import libpq

libpq.load = lambda: None
