"""Files as people have them in their repositories: what each tool makes of them, and what we make after `import`.

`odd/TOOL/CASE/` is one of the tool's directories. The tool is the judge: after it has applied the migrations to one
database, and we have imported and applied them to another, both must be the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import new_database
from tools.conftest import need
from tools.dumps import OURS, contents
from tools.everyone import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.postgres import Server
    from kit.processes import Run
    from tools.kit import Tool

ODD = Path(__file__).parent / "odd"

CASES = [
    pytest.param(kind, case, id=f"{kind.layout or kind.name}-{case.name}", marks=pytest.mark.xdist_group(kind.__name__))
    for kind in TOOLS
    for case in sorted((ODD / (kind.layout or kind.name)).glob("*"))
]


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_what_the_tool_makes_of_it(
    kind: type[Tool], case: Path, server: Server, tmp_path: Path, run_entrypoint: Callable[..., Run]
) -> None:
    tool = need(kind, tmp_path / "project")
    tool.take(case)
    with new_database(server, "theirs") as theirs, new_database(server, "ours") as ours:
        tool.up(theirs.url)
        run_entrypoint("import", "--from", tool.name, tool.directory, "--into", "migrations").ok()
        run_entrypoint("migrate", env={"DATABASE_URL": ours.url}).ok()
        kept = OURS | set(tool.table.split("."))
        assert contents(ours, kept) == contents(theirs, kept)
