"""What the folder has in the place of Python's module ssl. TLS to the database is libpq's own affair, not Python's.

psycopg's compiled part imports ssl for the locks that OpenSSL needed up to version 1.0, and for nothing else. The real
one would bring a second OpenSSL, 7 MB to be kept up to date, with a store of certificates from the machine that the
folder was built on. asyncio, which psycopg imports as well, asks for two names at its import.
"""


class SSLWantReadError(OSError):
    """Never raised: nothing here has a socket with TLS."""


class SSLSyscallError(OSError):
    """Never raised either."""
