"""`check --against REF`, with real git and throwaway repositories."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conftest import missing
from scene import only_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kit.processes import Run

    Start = Callable[..., Run]
    Check = Callable[..., list[tuple[Any, ...]]]

GIT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    **{f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
BASE = {"001_a.sql": "CREATE TABLE a ();\n", "002_b.sql": "CREATE TABLE b ();\n"}


def git(directory: Path, *words: str | Path) -> str:
    if shutil.which("git") is None:
        missing("no git")
    command = ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *map(str, words)]
    done = subprocess.run(command, cwd=directory, env=GIT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(directory: Path, files: Mapping[str, str | bytes | None]) -> None:
    """Write files, or remove them, and commit everything below the directory."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    git(directory, "add", "--all", "--force", ".")
    git(directory, "commit", "--quiet", "--allow-empty", "--message", "x")


@pytest.fixture
def migrations(migrations_dir: Path) -> Path:
    """Return the migrations of a branch `mine`, created when `main` had two files; `main` has three by now."""
    top = migrations_dir.parent
    git(top, "init", "--quiet")
    commit(migrations_dir, BASE)
    git(top, "branch", "mine")
    commit(migrations_dir, {"004_theirs.sql": "CREATE TABLE theirs ();\n"})
    git(top, "checkout", "--quiet", "mine")
    return migrations_dir


@pytest.fixture
def check(run_entrypoint: Start) -> Check:
    """Return a function that runs `check --against` and returns what it found about files."""

    def findings(ref: str = "main", *arguments: str, code: int = 0, **options: Any) -> list[tuple[Any, ...]]:
        env = {"HOME": "/nonexistent", **options.pop("env", {})}
        arguments = ("--no-lint", "--format", "json", *arguments)
        run = run_entrypoint("check", "--against", ref, *arguments, env=env, **options)
        assert run.wait() == code, run.report()
        found = [one for one in json.loads(run.stdout) if one["rule"] in RULES]
        assert all(one["remedy"] for one in found if one["level"] != "note")
        return [(one["file"], one["level"], one["rule"]) for one in found]

    return findings


RULES = ("changed", "number-taken", "out-of-order", "against")


def refusal(run: Run, code: int) -> str:
    assert run.wait() == code, run.report()
    error = only_error(run)
    assert not run.stdout
    return f"{error['message']} {error['remedy']}"


# --- Findings --------------------------------------------------------------------------------------------


def test_a_branch_that_goes_on_behind_the_other(migrations: Path, check: Check) -> None:
    (migrations / "005_mine.sql").write_text("SELECT 1;\n")
    assert check() == []


def test_a_number_that_the_other_has_for_another_file(migrations: Path, run_entrypoint: Start, check: Check) -> None:
    (migrations / "004_mine.sql").write_text("SELECT 1;\n")
    assert check(code=65) == [("migrations/004_mine.sql", "error", "number-taken")]
    run = run_entrypoint("check", "--no-lint", "--against", "main")
    assert run.wait() == 65
    assert "migrations/004_mine.sql: error: main uses the number 004 for another file: 004_theirs.sql\n" in run.stdout
    assert "to a number above 004." in run.stdout


def test_a_number_below_the_newest_of_the_other(migrations: Path, check: Check) -> None:
    (migrations / "003_mine.sql").write_text("SELECT 1;\n")
    assert check() == [("migrations/003_mine.sql", "warning", "out-of-order")]
    check("main", "--strict", code=65)


def test_a_file_that_the_other_has_with_another_content(migrations: Path, check: Check) -> None:
    (migrations / "002_b.sql").write_text("CREATE TABLE better ();\n")
    assert check(code=65) == [("migrations/002_b.sql", "error", "changed")]
    assert check("mine", code=65) == [("migrations/002_b.sql", "error", "changed")], "what is not committed counts"


def test_a_name_that_another_file_has_now(migrations: Path, check: Check) -> None:
    (migrations / "002_b.sql").rename(migrations / "002_c.sql")
    assert check(code=65) == [("migrations/002_c.sql", "error", "number-taken")]


def test_numbers_are_numbers(migrations: Path, check: Check) -> None:
    (migrations / "0004_theirs.sql").write_text("CREATE TABLE theirs ();\n")
    assert check(code=65) == [("migrations/0004_theirs.sql", "error", "number-taken")]


def test_line_ends_and_a_mark_are_no_change(migrations: Path, check: Check) -> None:
    text = (migrations / "002_b.sql").read_bytes()
    (migrations / "002_b.sql").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert check() == []


def test_what_git_converts_is_no_change(migrations: Path, check: Check) -> None:
    """With `$Id$`, or a filter such as LFS or git-crypt, the stored text differs from the checked-out one."""
    git(migrations, "config", "filter.upper.clean", "tr a-z A-Z")
    git(migrations, "config", "filter.upper.smudge", "tr A-Z a-z")
    attributes = "*.sql ident\n002_b.sql filter=upper\n"
    commit(migrations, {".gitattributes": attributes, "001_a.sql": "-- $Id$\nSELECT 1;\n", "002_b.sql": "select 2;\n"})
    for name in ("001_a.sql", "002_b.sql"):
        (migrations / name).unlink()
    git(migrations, "checkout", "--", ".")
    assert "$Id: " in (migrations / "001_a.sql").read_text()
    assert check("HEAD") == []
    (migrations / "002_b.sql").write_text("select 3;\n")
    assert [(file[-9:], rule) for file, _, rule in check("HEAD", code=65)] == [("002_b.sql", "changed")]


def test_all_files_are_compared_whichever_are_named(migrations: Path, check: Check) -> None:
    (migrations / "004_mine.sql").write_text("SELECT 1;\n")
    found = check("main", "migrations/001_a.sql", code=65)
    assert found == [("migrations/004_mine.sql", "error", "number-taken")]


def test_what_is_no_migration_there_is_nothing_to_it(migrations: Path, check: Check) -> None:
    git(migrations, "checkout", "--quiet", "main")
    odd = ["5_x.sql", "ünï\tcode\n.sql", ' "quoted".sql', "notes.txt", "sub/009_sub.sql", "rollback/004_theirs.sql"]
    commit(migrations, dict.fromkeys(odd, "x"))
    (migrations / "010_link.sql").symlink_to("001_a.sql")
    commit(migrations, {"rollback/004_theirs.sql": "changed"})
    git(migrations, "checkout", "--quiet", "mine")
    (migrations / "010_link.sql").write_text("SELECT 1;\n")
    (migrations / "009_sub.sql").write_text("SELECT 1;\n")
    assert check() == [("migrations/009_sub.sql", "warning", "out-of-order")]


# --- Where the files are -------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_directory_that_the_other_does_not_have(migrations: Path, check: Check) -> None:
    shutil.copytree(migrations, migrations.parent / "other dir" / "mé;g")
    env = {"MIGRATIONS_DIR": "other dir/mé;g"}
    assert check(env=env) == [(None, "note", "against")]
    git(migrations.parent, "checkout", "--quiet", "main")
    commit(migrations.parent, {})
    git(migrations.parent, "checkout", "--quiet", "mine")
    shutil.copytree(migrations, migrations.parent / "other dir" / "mé;g", dirs_exist_ok=True)
    (migrations.parent / "other dir" / "mé;g" / "002_x.sql").write_text("SELECT 1;\n")
    found = check(env=env, code=65)
    assert ("other dir/mé;g/002_x.sql", "error", "number-taken") in found


def test_a_subdirectory_and_a_link_to_it(migrations: Path, check: Check, tmp_path: Path) -> None:
    (migrations / "004_mine.sql").write_text("SELECT 1;\n")
    (tmp_path / "link").symlink_to("migrations")
    assert check(env={"MIGRATIONS_DIR": "link"}, code=65) == [("link/004_mine.sql", "error", "number-taken")]
    assert check(cwd=migrations, env={"MIGRATIONS_DIR": "."}, code=65)[0][0] == "004_mine.sql"
    assert check(cwd=Path("/"), env={"MIGRATIONS_DIR": str(migrations)}, code=65)[0][0].endswith("004_mine.sql")


@pytest.mark.thorough
def test_the_migrations_may_be_the_top(migrations: Path, check: Check) -> None:
    git(migrations, "init", "--quiet")
    commit(migrations, {})
    (migrations / "002_c.sql").write_text("SELECT 1;\n")
    assert check(code=65) == [("migrations/002_c.sql", "error", "number-taken")]


def test_a_worktree_and_a_hook_in_it(migrations: Path, check: Check, tmp_path: Path) -> None:
    """A hook's environment names its own repository and index, not those of the other checkout."""
    other = tmp_path / "tree"
    git(migrations, "worktree", "add", "--quiet", other, "-b", "third", "mine")
    (other / "migrations" / "004_mine.sql").write_text("SELECT 1;\n")
    env = {"MIGRATIONS_DIR": "tree/migrations"}
    assert check(env=env, code=65) == [("tree/migrations/004_mine.sql", "error", "number-taken")]
    hook = {"GIT_DIR": ".git", "GIT_INDEX_FILE": "nonsense", "GIT_WORK_TREE": "/", "GIT_PREFIX": "x/"}
    assert check(env={**env, **hook}, code=65) == [("tree/migrations/004_mine.sql", "error", "number-taken")]


@pytest.mark.thorough
def test_a_submodule_has_branches_of_its_own(migrations: Path, check: Check, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    git(top, "init", "--quiet")
    git(top, "submodule", "--quiet", "add", migrations.parent, "db")
    commit(top, {})
    (top / "db" / "migrations" / "004_mine.sql").write_text("SELECT 1;\n")
    env = {"MIGRATIONS_DIR": "top/db/migrations"}
    found = check("origin/main", env=env, code=65)
    assert found == [("top/db/migrations/004_mine.sql", "error", "number-taken")]


# --- What git cannot answer ------------------------------------------------------------------------------


def test_a_shallow_clone_has_what_it_needs_or_is_told_to_fetch_it(
    migrations: Path, run_entrypoint: Start, check: Check, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", "--branch=mine", f"file://{tmp_path}", clone)
    (clone / "migrations" / "004_mine.sql").write_text("SELECT 1;\n")
    env = {"MIGRATIONS_DIR": "clone/migrations", "HOME": "/nonexistent"}
    told = refusal(run_entrypoint("check", "--against", "origin/main", env=env), 64)
    assert "has no commit 'origin/main'" in told
    command = "git fetch --depth=1 origin +refs/heads/main:refs/remotes/origin/main"
    assert command in told
    git(clone, *command.split()[1:])
    found = check("origin/main", env=env, code=65)
    assert found == [("clone/migrations/004_mine.sql", "error", "number-taken")]


@pytest.mark.parametrize("ref", ["nothing", "no/such", "--all", "-x", "", "main:migrations", "HEAD^{tree}", "a b"])
def test_what_names_no_commit(migrations: Path, run_entrypoint: Start, ref: str) -> None:
    run = run_entrypoint("check", f"--against={ref}", env={"HOME": "/nonexistent"})
    assert f"has no commit {ref!r}" in refusal(run, 64)


@pytest.mark.parametrize("ref", ["main~0", "refs/heads/main", "@{-1}", "tag"])
def test_what_names_one(migrations: Path, check: Check, ref: str) -> None:
    git(migrations, "tag", "tag", "main")
    (migrations / "004_mine.sql").write_text("SELECT 1;\n")
    if ref == "@{-1}":
        git(migrations, "checkout", "--quiet", "main")
        git(migrations, "checkout", "--quiet", "mine")
    assert check(ref, code=65) == [("migrations/004_mine.sql", "error", "number-taken")]


def test_no_repository(migrations_dir: Path, run_entrypoint: Start, tmp_path: Path) -> None:
    env = {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent), "HOME": "/nonexistent"}
    told = refusal(run_entrypoint("check", "--against", "main", env=env), 78)
    assert f"needs a git repository, and {str(migrations_dir)!r} is not in one" in told


@pytest.mark.thorough
def test_no_git(migrations: Path, run_entrypoint: Start, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    told = refusal(run_entrypoint("check", "--against", "main", env={"PATH": str(tmp_path / "empty")}), 78)
    assert "--against needs git, which is not on PATH" in told


def test_somebody_elses_checkout(migrations: Path, run_entrypoint: Start) -> None:
    """A CI container often runs as a different user from the owner of the checkout."""
    env = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "HOME": "/nonexistent"}
    told = refusal(run_entrypoint("check", "--against", "main", env=env), 78)
    assert "dubious ownership" in told
    assert "safe.directory" in told


@pytest.mark.thorough
def test_an_object_that_is_not_there(migrations: Path, run_entrypoint: Start) -> None:
    content = git(migrations, "rev-parse", "main:migrations/002_b.sql")
    (migrations.parent / ".git" / "objects" / content[:2] / content[2:]).unlink()
    (migrations / "002_b.sql").write_text("SELECT 1;\n")
    told = refusal(run_entrypoint("check", "--against", "main", env={"HOME": "/nonexistent"}), 78)
    assert "missing" in told
