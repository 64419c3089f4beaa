"""`check --against REF`: compare the migration files with those of another branch.

Names and contents come from the git command. Nothing is checked out, and no history is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from hashlib import new as new_hash
from typing import NamedTuple

from entrypoint.errors import ConfigurationError
from entrypoint.errors.operator import UsageError
from entrypoint.migration.script.files import checksum, is_sql, number_of
from entrypoint.operations import child
from entrypoint.operations.findings import Finding, shown_path
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from entrypoint.migration.script.files import Directory, MigrationFile

# In a partial clone, git may have to fetch objects.
_PATIENCE = 60.0
# git sets these for hooks. They describe the hook's repository, which may not be that of the migrations, and a relative
# path would be resolved in the wrong directory.
_OF_A_REPOSITORY = frozenset((
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
    "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
))  # fmt: skip
_HASHES = {40: "sha1", 64: "sha256"}
_SYMLINK = "120000"
# How many file names go on one command line.
_AT_ONCE = 500


class Theirs(NamedTuple):
    """A migration file of the other branch."""

    number: int
    name: str
    content: str
    """git's name for it; empty for a symbolic link."""


def against(directory: Directory, ref: str, environ: Mapping[str, str]) -> list[Finding]:
    """Compare the files of a directory with those of the commit that `ref` names.

    Raises UsageError if there is no such commit, ConfigurationError if git fails.
    """
    git = _Git(directory.path, environ)
    theirs = git.files(git.commit(ref))
    if not theirs:
        shown = shown_path(os.path.abspath(directory.path), os.getcwd())
        return [Finding("note", "against", f"{ref} has no migrations in {shown}, so there is nothing to compare")]
    return compare(directory.files, theirs, git.changed(directory.files, theirs), ref)


def compare(ours: Sequence[MigrationFile], theirs: Sequence[Theirs], changed: Iterable[str], ref: str) -> list[Finding]:
    """Compare our files with `theirs`. `changed`: the names of files whose content differs."""
    names = {file.name for file in theirs}
    by_number = {file.number: file.name for file in theirs}
    newest = max(theirs)
    changed = frozenset(changed)
    current = os.getcwd()
    findings = []
    for file in ours:
        shown = shown_path(file.path, current)
        if file.name in changed:
            message = f"differs from the file in {ref}; where that one is already applied, the change would never run"
            remedy = f"Restore the file from {ref}, and put the change into a new migration."
            findings.append(Finding("error", "changed", message, shown, remedy=remedy))
        elif file.name in names:
            continue
        elif file.number in by_number:
            message = f"{ref} uses the number {file.number:03d} for another file: {by_number[file.number]}"
            findings.append(Finding("error", "number-taken", message, shown, remedy=_rename(newest)))
        elif file.number < newest.number:
            message = f"comes before {newest.name} of {ref}; where that is already applied, this file is out of order"
            findings.append(Finding("warning", "out-of-order", message, shown, remedy=_rename(newest)))
    return findings


def _rename(newest: Theirs) -> str:
    return f"Rename it, and its file in rollback/ if there is one, to a number above {newest.number:03d}."


class _Git:
    """The git command, run in the migrations directory."""

    def __init__(self, directory: str, environ: Mapping[str, str]) -> None:
        """Find the program. Raises ConfigurationError."""
        program = shutil.which("git", path=environ.get("PATH", os.defpath))
        if program is None:
            raise ConfigurationError(
                "--against needs git, which is not on PATH", remedy="Install git, or leave out --against."
            )
        self._program = os.path.abspath(program)
        self._directory = directory
        kept = {name: value for name, value in environ.items() if name.startswith("GIT_")}
        kept |= {name: environ[name] for name in ("PATH", "HOME", "XDG_CONFIG_HOME") if name in environ}
        self._environ = {name: value for name, value in kept.items() if name not in _OF_A_REPOSITORY}
        self._environ |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}

    def commit(self, ref: str) -> str:
        """Return the commit that `ref` names. Raises UsageError if it names none."""
        remotes = self._answer("remote").decode(errors="replace").split("\n")
        # git would take a name that begins with a dash for an option, and creates no such names.
        if not ref.startswith("-"):
            code, answer, _ = self._ask("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
            # If SIGCHLD is ignored, exit codes are lost, and each one reads as 0.
            if code == 0 and answer.strip():
                return answer.decode().strip()
        remote, _, branch = ref.partition("/")
        fetch = f"git fetch --depth=1 {remote} +refs/heads/{branch}:refs/remotes/{ref}"
        where = foreign(os.path.abspath(self._directory))
        raise UsageError(
            f"The git repository of {where!r} has no commit {foreign(ref)!r}",
            remedy=f"CI usually clones only one branch. Fetch this one first: {foreign(fetch)}"
            if remote in remotes and branch
            else "Give a branch (such as origin/main), a tag or a commit.",
        )

    def files(self, commit: str) -> list[Theirs]:
        """Return the migrations that a commit has in this directory, except for badly named files."""
        found = []
        for entry in self._answer("ls-tree", "-z", commit).split(b"\0"):
            kind, _, name_in_bytes = entry.partition(b"\t")
            name = os.fsdecode(name_in_bytes)
            number = number_of(name) if is_sql(name) else None
            if number is not None:
                mode, what, content = kind.decode().split()
                if what == "blob":
                    found.append(Theirs(number, name, "" if mode == _SYMLINK else content))
        return found

    def changed(self, ours: Iterable[MigrationFile], theirs: Iterable[Theirs]) -> list[str]:
        """Return the names of the files that both have, with different contents as git would store them.

        Line endings do not count.
        """
        contents = {file.name: file.content for file in theirs if file.content}
        # Nearly all are identical, and git need not read those.
        doubtful = [file for file in ours if file.name in contents and not _is(file.path, contents[file.name])]
        if not doubtful:
            return []
        output = self._answer(
            "cat-file", "--batch", data="".join(f"{contents[file.name]}\n" for file in doubtful).encode()
        )
        changed = []
        at = 0
        for file in doubtful:
            end = output.index(b"\n", at)
            header = output[at:end].decode(errors="replace")
            if not header.endswith(tuple("0123456789")):
                raise self._cannot(header.encode())
            size = int(header.rpartition(" ")[2])
            if not file.matches(checksum(output[end + 1 : end + 1 + size])):
                changed.append(file.name)
            at = end + 1 + size + 1
        # Checked-out files may have been converted: by a filter (LFS, git-crypt), an encoding or $Id$.
        stored = self._stored(changed)
        return [name for name in changed if stored[name] != contents[name]]

    def _stored(self, names: Sequence[str]) -> dict[str, str]:
        """Return git's names for the contents of our files as it would store them."""
        stored: dict[str, str] = {}
        for at in range(0, len(names), _AT_ONCE):
            some = names[at : at + _AT_ONCE]
            # Not --stdin-paths, whose paths are relative to the top of the checkout.
            stored.update(zip(some, self._answer("hash-object", "--", *some).decode().split(), strict=True))
        return stored

    def _answer(self, *arguments: str, data: bytes | None = None) -> bytes:
        code, output, errors = self._ask(*arguments, data=data)
        if code != 0:
            raise self._cannot(errors)
        return output

    def _ask(self, *arguments: str, data: bytes | None = None) -> tuple[int, bytes, bytes]:
        command = [self._program, *arguments]
        try:
            return child.run(command, self._environ, _PATIENCE, directory=self._directory, data=data)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._cannot(foreign(str(error)).encode()) from error

    def _cannot(self, said: bytes) -> ConfigurationError:
        """Return the error for a failed git command."""
        lines = said.decode(errors="replace").strip().splitlines()
        why = next((line for line in lines if line.startswith("fatal: ")), lines[0] if lines else "it gave no reason")
        text = foreign(why.removeprefix("fatal: "))
        directory = foreign(os.path.abspath(self._directory))
        if "not a git repository" in text:
            return ConfigurationError(
                f"--against needs a git repository, and {directory!r} is not in one",
                remedy="Set MIGRATIONS_DIR to the migrations in the checkout, or leave out --against.",
            )
        remedy = (
            "The checkout belongs to another user. Run git config --global --add safe.directory PATH, with its path."
            if "dubious ownership" in text
            else "Run `git status` in that directory to see what is wrong, or leave out --against."
        )
        return ConfigurationError(f"git failed in {directory!r}: {text}", remedy=remedy)


def _is(path: str, content: str) -> bool:
    """Return whether a file's content has this hash, git's name for it."""
    with open(path, "rb") as file:
        data = file.read()
    digest = new_hash(_HASHES[len(content)], b"blob %d\0" % len(data), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest() == content
