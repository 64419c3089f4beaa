"""The program, with another default for MIGRATION_LOCK_TIMEOUT_MS: its first argument, in milliseconds."""

import sys

from entrypoint import settings

settings.DEFAULT_LOCK_TIMEOUT_MS = int(sys.argv.pop(1))

from entrypoint.__main__ import main  # noqa: E402 - the default is there before anything is read

main()
