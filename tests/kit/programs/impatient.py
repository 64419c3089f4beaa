"""The program with a different default for MIGRATION_LOCK_TIMEOUT_MS: the first argument, in milliseconds."""

import sys

from entrypoint import settings

settings.DEFAULT_LOCK_TIMEOUT_MS = int(sys.argv.pop(1))

from entrypoint.__main__ import main  # noqa: E402 - after the default is set

main()
