"""The tools for comparison. `make bench-peers` installs them into benchmarks/.peers/."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peers.compiled import GolangMigrate, Goose, Sqlx, Tern
from benchmarks.peers.frameworks import Django, Prisma
from benchmarks.peers.tools import Alembic, Dbmate, Flyway, Liquibase, NodePgMigrate, Peer, Sqitch, Yoyo

HOME = Path(__file__).parents[1] / ".peers"
# Written by the installation: the installed version of each package.
RECORD = "installed.json"


class Peers:
    """All of them, installed or not."""

    def __init__(self, home: Path = HOME, psql: Path | None = None) -> None:
        """Look for them in `home`. `psql` is for those that run it."""
        self.home = home
        self.all: list[Peer] = [
            Dbmate(home),
            Goose(home),
            GolangMigrate(home),
            Tern(home),
            Sqlx(home),
            NodePgMigrate(home),
            Yoyo(home),
            Alembic(home),
            Django(home),
            Prisma(home),
            Sqitch(home, psql),
            Liquibase(home),
            Flyway(home),
        ]

    @property
    def present(self) -> list[Peer]:
        """Return those that can be run."""
        return [peer for peer in self.all if peer.missing() is None]

    @property
    def missing(self) -> list[str]:
        """Return the name of each that cannot be run, and why."""
        return [reason for peer in self.all if (reason := peer.missing()) is not None]

    def versions(self) -> dict[str, str]:
        """Return the installed versions, as recorded by the installation."""
        record = self.home / RECORD
        if not record.exists():
            return {}
        versions: dict[str, str] = json.loads(record.read_text())
        return {peer.package: versions.get(peer.package, "?") for peer in self.present}
