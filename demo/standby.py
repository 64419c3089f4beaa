"""A standby server."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from demo.postgres import HOST, Server, workspace

if TYPE_CHECKING:
    from pathlib import Path


class Standby(Server):
    """A server that replicates another one."""

    def __init__(self, primary: Server) -> None:
        """Take the `primary`, which is copied when this server starts."""
        super().__init__(primary.version, settings=primary.settings)
        self._primary = primary

    def _create(self) -> Path:
        work = workspace()
        directory = work.directory()
        program = work.programs(self.installation) / "pg_basebackup"
        address = ["-h", HOST, "-p", str(self._primary.port), "-U", "postgres"]
        work.owner.run([program, *address, "-D", directory / "data", "-R", "-X", "stream", "-c", "fast"], cwd=directory)
        subprocess.run(["chmod", "700", directory / "data"], check=True)
        return directory
