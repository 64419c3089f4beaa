"""The main script of the self-contained folder: what bin/entrypoint is to an installation with pip."""

import sys

if sys.argv[1:2] == ["--leash"]:
    # As the only Python in the folder it is what runs leash.py, too: see entrypoint/backup/waiting.py.
    from entrypoint.backup import leash

    leash.main(sys.argv[2:])

from entrypoint.__main__ import main

main()
