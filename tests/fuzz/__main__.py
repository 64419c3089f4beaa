"""Try random texts: `python -m tests.fuzz --seconds 60 --seed 7 --pg 16`.

Each is read as the program reads it, with PostgreSQL's parser and by first words, and sent to a real server. A class of
differences that is not in `KNOWN` is minimized, written to `--save`, and makes the exit code 1.
"""

# ruff: noqa: T201 - a program that prints

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path
from random import Random

from demo.postgres import Server
from fuzz.hunt import Found, hunt, sample
from fuzz.judge import Difference, Judge
from fuzz.shapes import Shapes
from fuzz.whole import Whole, psql


def main() -> int:
    """Try texts for as long as requested; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", default="")
    parser.add_argument("--whole", type=int, default=None, help="how many texts go through the whole program")
    parser.add_argument("--shapes", type=int, default=0, help="how many files with BEGIN and COMMIT are tried")
    parser.add_argument("--pg", type=int, default=16)
    parser.add_argument("--save", type=Path, default=None)
    options = parser.parse_args()
    seed = options.seed or secrets.token_hex(4)
    save = options.save or Path(tempfile.mkdtemp(prefix="fuzz-"))
    save.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, PostgreSQL {options.pg}", flush=True)

    def tell(found: Found) -> None:
        path = save / f"{found.difference.what}-{found.difference.reading}.sql".replace(" ", "-").lower()
        path.write_text(found.text, newline="")
        state = f"known: {found.known}" if found.known else f"NEW, saved as {path}"
        print(f"{found.difference.shape}: {found.difference.detail}\n  {found.text!r}\n  {state}", flush=True)

    with Server(options.pg) as server:
        server.create_database("fuzz")
        judge = Judge(lambda: server.connect("fuzz"))
        result = hunt(judge, seed, options.seconds, tell)
        judge.close()
        count = round(options.seconds / 3) if options.whole is None else options.whole
        beside = psql(server)
        whole = None if beside is None or not count else Whole(server, Path(tempfile.mkdtemp(prefix="fuzz-")), beside)
        strays = [] if whole is None else sample(whole, seed, count, tell)
        odd = [] if beside is None else _shapes(server, beside, seed, options.shapes, save)
    print(
        f"{judge.texts} texts in {result.seconds:.0f} s, {judge.texts / max(result.seconds, 1):.0f}/s, "
        f"{judge.ran / max(judge.texts, 1):.0%} without a syntax error"
    )
    for shape, count in sorted(result.counts.items()):
        print(f"{count:7} {shape}")
    if whole is None:
        print("no text went through the whole program" + ("" if count == 0 else ": no psql on this machine"))
    else:
        print(
            f"{whole.texts} texts through the whole program, beside psql: {whole.applied} applied, "
            f"{whole.failed} failed, {whole.refused} refused"
        )
    return 1 if odd or any(not found.known for found in (*result.found, *strays)) else 0


def _shapes(server: Server, beside: str, seed: str, count: int, save: Path) -> list[tuple[Difference, str]]:
    """Try files with their own transaction control; return what differs."""
    found: list[tuple[Difference, str]] = []

    def tell(difference: Difference, text: str) -> None:
        path = save / f"shape-{len(found)}.sql"
        path.write_text(text)
        found.append((difference, text))
        print(f"{difference.shape}: {difference.detail}\n  {text!r}\n  NEW, saved as {path}", flush=True)

    for deferred in (False, True) if count else ():
        shapes = Shapes(server, beside, deferred=deferred)
        shapes.run(Random(f"{seed} {deferred}"), count // 2, tell)
        shapes.close()
        counts = ", ".join(f"{number} {what}" for what, number in sorted(shapes.counts.items()))
        print(f"files with BEGIN and COMMIT{', deferred triggers' * deferred}, beside psql: {counts}", flush=True)
    return found


sys.exit(main())
