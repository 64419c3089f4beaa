"""A badly behaved migration tool: it ignores SIGTERM, and reconnects when it is disconnected.

    stubborn.py DRIVER SECONDS

At its start, it records how many steps others have committed. Then it commits one step after the other for SECONDS.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from uuid import uuid4

RUN = uuid4().hex
BEGIN = f"INSERT INTO begun (run, seen, at) SELECT '{RUN}', (SELECT count(*) FROM work), clock_timestamp()"
STEP = f"INSERT INTO work (run) VALUES ('{RUN}')"
# The commit comes well after the step.
SLEEP = "SELECT pg_sleep(0.05)"
END = f"INSERT INTO finished (run) VALUES ('{RUN}')"


def with_psycopg(seconds: float) -> None:
    """Commit steps; after any error, connect again."""
    import psycopg

    until = None
    while until is None or time.monotonic() < until:
        with contextlib.suppress(psycopg.Error), psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            if until is None:
                connection.execute(BEGIN)
                connection.commit()
                until = time.monotonic() + seconds
            while time.monotonic() < until:
                connection.execute(STEP)
                connection.execute(SLEEP)
                connection.commit()
            connection.execute(END)
            return
        time.sleep(0.01)


async def with_asyncpg(seconds: float) -> None:
    """Commit steps through a pool, which releases all of the session's locks between two uses, even ours."""
    import asyncpg  # type: ignore[import-not-found,import-untyped,unused-ignore]

    until = None
    while until is None or time.monotonic() < until:
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=2) as pool:
                if until is None:
                    await pool.execute(BEGIN)
                    until = time.monotonic() + seconds
                while time.monotonic() < until:
                    async with pool.acquire() as connection, connection.transaction():
                        await connection.execute(STEP)
                        await connection.execute(SLEEP)
                await pool.execute(END)
                return
        await asyncio.sleep(0.01)


def main(driver: str, seconds: str) -> None:
    """Work for this many seconds."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if driver == "asyncpg":
        asyncio.run(with_asyncpg(float(seconds)))
    else:
        with_psycopg(float(seconds))


main(*sys.argv[1:])
