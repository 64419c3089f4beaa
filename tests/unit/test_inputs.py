"""The digest of what another migration tool reads, and how its command line is split."""

from __future__ import annotations

import shlex
import string
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.command import Command, split
from entrypoint.errors import ConfigurationError
from entrypoint.tool.inputs import want

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "steps/001.py",
        "steps/002.py",
        "steps/deep/er/003.sql",
        "steps/__pycache__/001.pyc",
        "steps/002.pyc",
        "steps/.hidden.py",
        "shop/migrations/001.py",
        "cart/migrations/001.py",
        "node_modules/x/migrations/001.py",
        "lock.txt",
        "a b.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)


def command(inputs: str, line: str = "tool up") -> Command:
    return Command(line, split(line), split(inputs), (), with_files=False)


def names(inputs: str) -> list[str]:
    return sorted(want(command(inputs)).names)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ("steps", ["steps/.hidden.py", "steps/001.py", "steps/002.py", "steps/deep/er/003.sql"]),
        ("./steps/", ["steps/.hidden.py", "steps/001.py", "steps/002.py", "steps/deep/er/003.sql"]),
        ("steps/*.py", ["steps/001.py", "steps/002.py"]),
        ("steps/00?.py", ["steps/001.py", "steps/002.py"]),
        ("steps/00[2-9].py", ["steps/002.py"]),
        ("*/migrations", ["cart/migrations/001.py", "shop/migrations/001.py"]),
        ("**/migrations/*.py", ["cart/migrations/001.py", "shop/migrations/001.py"]),
        ("steps/**", ["steps/.hidden.py", "steps/001.py", "steps/002.py", "steps/deep/er/003.sql"]),
        ("**/*.sql", ["steps/deep/er/003.sql"]),
        ("lock.txt steps/001.py", ["lock.txt", "steps/001.py"]),
        ("lock.txt lock.txt", ["lock.txt"]),
        ("'a b.txt'", ["a b.txt"]),
        ("node_modules/x", ["node_modules/x/migrations/001.py"]),
        ("", []),
    ],
)
def test_what_the_inputs_name(inputs: str, found: list[str]) -> None:
    assert names(inputs) == found


def test_all_that_may_change_changes_the_fingerprint(tmp_path: Path) -> None:
    seen = [want(command("steps")).fingerprint]

    def changed(fingerprint: str) -> None:
        assert fingerprint not in seen
        seen.append(fingerprint)

    changed(want(command("steps", "tool down")).fingerprint)
    (tmp_path / "steps/001.py").write_text("steps/001.py ")
    changed(want(command("steps")).fingerprint)
    (tmp_path / "steps/001.py").rename(tmp_path / "steps/004.py")
    changed(want(command("steps")).fingerprint)
    (tmp_path / "steps/empty").write_text("")
    changed(want(command("steps")).fingerprint)


def test_bytecode_and_blanks_change_nothing(tmp_path: Path) -> None:
    before = want(command("steps"))
    (tmp_path / "steps/__pycache__/other.pyc").write_text("new")
    (tmp_path / "steps/.git").mkdir()
    (tmp_path / "steps/.git/HEAD").write_text("new")
    (tmp_path / "steps/node_modules").mkdir()
    (tmp_path / "steps/node_modules/x").write_text("new")
    assert want(command("steps")).fingerprint == before.fingerprint
    assert want(command(" ./steps/ ", " tool  up ")).fingerprint == before.fingerprint


def test_a_config_maps_folders_have_the_same_names_at_each_mount(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    seen = set()
    for moment in ("..2026_11_28", "..2026_11_29"):
        (mounted / moment).mkdir(parents=True)
        (mounted / moment / "001.sql").write_text("SELECT 1")
        (mounted / "..data").unlink(missing_ok=True)
        (mounted / "..data").symlink_to(moment)
        (mounted / "001.sql").unlink(missing_ok=True)
        (mounted / "001.sql").symlink_to("..data/001.sql")
        found = want(command("mounted"))
        assert found.names == {"mounted/001.sql"}
        seen.add(found.fingerprint)
    assert len(seen) == 1


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "steps/circle").symlink_to("..")
    (tmp_path / "steps/link.py").symlink_to("../lock.txt")
    (tmp_path / "linked").symlink_to("steps")
    assert "steps/link.py" in names("steps")
    assert "linked/001.py" in names("linked")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("nowhere", "No such file"),
        ("steps/*.rb", "matches no file"),
        ("empty", "matches no file"),
        ("empty/../steps/*.rb lock.txt", "matches no file"),
        ("dangling", "No such file"),
        ("pipe", "named pipe"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path: Path, inputs: str, said: str) -> None:
    import os

    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match=said):
        want(command(inputs))


@given(st.text(string.ascii_letters + " \t\n'\"\\$*&;#|", max_size=20))
def test_words_are_those_of_shlex(line: str) -> None:
    try:
        expected = tuple(shlex.split(line))
    except ValueError:
        with pytest.raises(ValueError, match=r"never closed|backslash"):
            split(line)
    else:
        assert split(line) == expected
