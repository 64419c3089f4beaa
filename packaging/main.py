"""The main script of the self-contained folder: what bin/entrypoint is to an installation with pip."""

import sys

if sys.argv[1:2] == ["--die-with-parent"]:
    # As the only Python in the folder it is what runs die_with_parent.py, too: see entrypoint/backup/waiting.py.
    from entrypoint.backup import die_with_parent

    die_with_parent.main(sys.argv[2:])
if sys.argv[1:2] == ["--keeper"]:
    # ... and keeper.py: see entrypoint/tool/kept.py.
    from entrypoint.tool import keeper

    keeper.main(sys.argv[2:])
    sys.exit()

from entrypoint.__main__ import main

main()
