"""The main script of the self-contained folder, like bin/entrypoint in an installation with pip."""

import sys

if sys.argv[1:2] == ["--die-with-parent"]:
    # There is no other Python in the folder to run die_with_parent.py: see entrypoint/backup/waiting.py.
    from entrypoint.backup import die_with_parent

    die_with_parent.main(sys.argv[2:])
if sys.argv[1:2] == ["--keeper"]:
    # The same goes for keeper.py: see entrypoint/tool/kept.py.
    from entrypoint.tool import keeper

    keeper.main(sys.argv[2:])
    sys.exit()

from entrypoint.__main__ import main

main()
