"""Texts as files for the whole program, next to psql: the same effect, and a row in the ledger that says so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from entrypoint.database.quoting import identifier
from entrypoint.migration.script.statements import advise
from fuzz.judge import Difference
from fuzz.texts import ALONE
from kit.processes import PROGRAM

if TYPE_CHECKING:
    from demo.postgres import Server
    from entrypoint.migration.script.statements import Advice

_SEED = """
    CREATE TABLE t (a int);
    CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
"""
# Everything that a text can create: relations and their contents, views, functions, rules, defaults, comments.
_STATE = """
    WITH ours AS (SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$|^ledger$')
    SELECT nspname, relname, relkind::text, CASE relkind WHEN 'v' THEN pg_get_viewdef(c.oid) END, obj_description(c.oid)
    FROM pg_class c JOIN ours n ON n.oid = relnamespace
    UNION ALL SELECT nspname, proname, prokind::text, pg_get_functiondef(p.oid), NULL
    FROM pg_proc p JOIN ours n ON n.oid = pronamespace
    UNION ALL SELECT nspname, oprname, 'operator', oprcode::text, NULL
    FROM pg_operator o JOIN ours n ON n.oid = oprnamespace
    UNION ALL SELECT ev_class::regclass::text, rulename, 'rule', pg_get_ruledef(r.oid), NULL
    FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class JOIN ours n ON n.oid = relnamespace
    UNION ALL SELECT adrelid::regclass::text, adnum::text, 'default', pg_get_expr(adbin, adrelid), NULL
    FROM pg_attrdef JOIN pg_class c ON c.oid = adrelid JOIN ours n ON n.oid = relnamespace
    ORDER BY 1, 2, 3, 4
"""
# A statement outside all blocks runs in one of our transactions here, and in none in psql.
_LENIENT = "can only be used in transaction blocks"
# psql finds the end of a function's body by counting BEGIN, CASE and END, whatever they mean, so it sends half of a
# body with a column named "end". And, unlike the server, it ends a string at a comment between its parts. `judge`
# compares what the server makes of the whole text.
_CUT_OTHERWISE = ("syntax error", "unterminated")
_OPENING, _CLOSING = (re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for words in ("ATOMIC|CASE", "END"))
# psql asks how to read strings at the start of a line, so a SET has no effect for it until the next line.
_SET_WITHIN_A_LINE = re.compile(r"standard_conforming_strings[^;\n]*;[^\n]*\S", re.IGNORECASE)
_NO_COMMAND = "invalid command"
# Cannot be seen in the file's text, and would change how it is read. We refuse it when we notice, before it matters
# (docs/decisions/0031).
_CANNOT_BE_FOLLOWED = "in a way that cannot be tracked"
_SECONDS = 300


class _Outcome(NamedTuple):
    code: int
    output: str
    state: list[tuple[object, ...]]


def psql(server: Server) -> str | None:
    """Return psql's path, if this machine has it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/psql"), reverse=True)
    candidates = (server.bin / "psql", *found)
    return next((str(path) for path in candidates if path.exists()), shutil.which("psql"))


class Whole:
    """Two databases for each text: one that the program migrates, and one for psql."""

    def __init__(self, server: Server, directory: Path, psql: str, prefix: str = "fuzz") -> None:
        """Work in our own directory, and in databases whose names begin with `prefix`."""
        self._server, self._directory, self._psql = server, directory, psql
        self.texts = self.applied = self.failed = self.refused = 0
        self._seed, self._ours, self._theirs = (f"{prefix}_{name}" for name in ("seed", "ours", "psql"))
        server.create_database(self._seed)
        with server.connect(self._seed) as connection:
            connection.execute(_SEED)
        self._before = self._state(self._seed)

    def close(self) -> None:
        """Leave nothing behind on the server."""
        self._server.drop_database(self._seed)

    def difference(self, text: str, *, escapes: bool) -> Difference | None:
        """Return what differs between the program's effect and psql's; None if nothing does."""
        if self._server.version >= 19 and escapes:
            return None
        self.texts += 1
        for name in (self._ours, self._theirs):
            self._server.create_database(name, template=self._seed)
            if escapes:
                with self._server.connect(name) as connection:
                    connection.execute(f"ALTER DATABASE {name} SET standard_conforming_strings = off".encode())
        try:
            found = self._compare(text, advise(text, escapes=escapes))
            return None if found is None else Difference(found[0], "whole", found[1])
        finally:
            for name in (self._ours, self._theirs):
                self._server.drop_database(name)

    def _compare(self, text: str, advice: Advice) -> tuple[str, str] | None:
        file = self._directory / "001_x.sql"
        file.write_text(text, newline="")
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self._server.url(self._ours),
            "MIGRATIONS_DIR": str(self._directory),
            "MIGRATION_SCHEMA": "ledger",
            "LOG_FORMAT": "json",
        }
        ours = self._run([*PROGRAM, "migrate"], environment, self._ours)
        row = self._row()
        if ours.code == 65:
            self.refused += 1
            return ("refused, with an effect", ours.output) if row or ours.state != self._before else None
        if ours.code not in (0, 70):
            return f"exit {ours.code}", ours.output
        # With its own transaction control, it must not be in a transaction of psql's.
        alone = text.startswith(ALONE) or bool(advice.units or advice.left_out)
        units = not advice.merged or "migration.as_units" in ours.output
        command = [self._psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", *(() if alone else ("-1",)), "-f", str(file)]
        theirs = self._run([*command, self._server.url(self._theirs)], {"PATH": os.environ["PATH"]}, self._theirs)
        good = ours.code == 0
        self.applied += good
        self.failed += not good
        found: tuple[str, str] | None = None
        if (row == "completed") != good:
            found = f"exit {ours.code} with the row {row}", ours.output
        elif (alone and _LENIENT in theirs.output) or (good and _cut_otherwise(text, theirs.output)):
            pass
        elif _CANNOT_BE_FOLLOWED in ours.output:
            if not alone and ours.state != self._before:
                found = "refused, with an effect", _apart(ours.state, self._before)
        elif (theirs.code == 0) != good:
            found = ("only psql fails", theirs.output) if good else ("only psql succeeds", ours.output)
        elif ours.state != (expected := theirs.state if good or (alone and units) else self._before):
            found = "other effect" if good else "other effect of a failure", _apart(ours.state, expected)
        return found

    def _run(self, command: list[str], environment: dict[str, str], database: str) -> _Outcome:
        done = subprocess.run(
            command,
            env=environment,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        output = (done.stdout + done.stderr).decode(errors="replace")
        return _Outcome(done.returncode, output, self._state(database))

    def _state(self, database: str) -> list[tuple[object, ...]]:
        with self._server.connect(database) as connection:
            connection.execute("SET search_path = pg_catalog")
            state: list[tuple[object, ...]] = list(connection.execute(_STATE))
            for schema, name, *_ in [row for row in state if row[2] == "r"]:
                content = f"SELECT r::text FROM {identifier(str(schema))}.{identifier(str(name))} r ORDER BY 1"
                state += [(schema, name, *row) for row in connection.execute(content.encode())]
            return state

    def _row(self) -> str | None:
        with self._server.connect(self._ours) as connection:
            if connection.execute("SELECT to_regclass('ledger.schema_migrations')").fetchone() == (None,):
                return None
            found = connection.execute("SELECT status FROM ledger.schema_migrations").fetchone()
            return None if found is None else str(found[0])


def _cut_otherwise(text: str, output: str) -> bool:
    if "ATOMIC" in text and len(_OPENING.findall(text)) != len(_CLOSING.findall(text)):
        return True
    cut = _CUT_OTHERWISE + ((_NO_COMMAND,) if _SET_WITHIN_A_LINE.search(text) else ())
    return any(words in output for words in cut)


def _apart(ours: list[tuple[object, ...]], theirs: list[tuple[object, ...]]) -> str:
    return f"here {[row for row in ours if row not in theirs]}, psql {[row for row in theirs if row not in ours]}"
