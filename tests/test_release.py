"""What a release consists of: one version, the same list of Pythons everywhere, and what the forges run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import entrypoint
from release import pythons

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.text

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GITLAB = ROOT / ".gitlab-ci.yml"
# A commit, and its version in a comment.
PINNED = re.compile(r"uses: actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(read("pyproject.toml"))
    return found


# --- The version ----------------------------------------------------------------------------------------


def test_the_version_comes_from_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", entrypoint.__version__)
    assert project()["project"]["dynamic"] == ["version"]
    assert project()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "entrypoint.__version__"}


def test_what_repeats_the_version_agrees() -> None:
    assert re.findall(r"^ARG VERSION=(.*)$", read("Dockerfile"), re.MULTILINE) == [entrypoint.__version__]
    head = re.search(r"^## \[(.*)\] - (unreleased|\d{4}-\d\d-\d\d)$", read("CHANGELOG.md"), re.MULTILINE)
    assert head
    assert head[1] == entrypoint.__version__
    status = read("README.md").partition("\n## Status\n")[2].lstrip()
    unreleased = f"{entrypoint.__version__}, not released yet."
    # Until the release, and not a day longer.
    assert status.startswith(unreleased if head[2] == "unreleased" else f"{entrypoint.__version__}.")


# --- Pythons --------------------------------------------------------------------------------------------


def test_the_pythons_are_the_same_everywhere() -> None:
    begin = "Programming Language :: Python :: 3."
    classified = [text for text in project()["project"]["classifiers"] if text.startswith(begin)]
    assert [text.rpartition(" ")[2] for text in classified] == list(pythons.SUPPORTED)
    oldest, newest = pythons.SUPPORTED[0], pythons.SUPPORTED[-1]
    assert project()["project"]["requires-python"] == f">={oldest}"
    assert project()["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert project()["tool"]["mypy"]["python_version"] == oldest
    for page in ("README.md", "docs/releasing.md", "CONTRIBUTING.md"):
        assert re.search(rf"{re.escape(oldest)} to {re.escape(newest)}", read(page)), page
    # The image has the newest.
    assert f"ARG BASE=python:{newest}-slim" in read("Dockerfile")


# --- The forges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "files"),
    [("github-workflows", WORKFLOWS), ("gitlab-ci", [GITLAB]), ("dependabot", [ROOT / ".github" / "dependabot.yml"])],
)
def test_their_files_are_valid(schema: str, files: list[Path]) -> None:
    assert files
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        f"vendor.{schema}",
        *files,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def commands() -> Iterator[str]:
    """Yield each command that a forge runs."""
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            yield from (step["run"] for step in job.get("steps", ()) if "run" in step)
    for job in yaml.safe_load(GITLAB.read_text()).values():
        if isinstance(job, dict):
            yield from job.get("script", ())


def test_what_they_run_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", read("Makefile"), re.MULTILINE))
    ours = [command.split() for command in commands() if command.split()[0] in {"make", ".ci/run"}]
    made = [words[1] for words in ours if words[0] == "make"]
    assert sorted(made) == sorted([*["dist", "audit", "publish"] * 2, "publish-site", "site"])
    assert set(made) <= targets
    assert [words[0] for words in ours if words[0] != "make"] == [".ci/run"] * 2
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_actions_are_pinned_and_privileges_are_few() -> None:
    for path in WORKFLOWS:
        text = path.read_text()
        others = [line.strip() for line in text.splitlines() if "uses:" in line and "uses: ./.github" not in line]
        assert all(PINNED.search(line) for line in others), others
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] in ({}, {"contents": "read"})
        assert "secrets." not in text
        writing = [
            (name, what)
            for name, job in workflow["jobs"].items()
            for what, how in job.get("permissions", {}).items()
            if how == "write"
        ]
        allowed = [("publish", "contents"), ("publish", "id-token"), ("site", "contents")]
        assert writing == (allowed if path.stem == "release" else [])


def test_only_a_tag_publishes() -> None:
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    # In YAML 1.1, `on` is true.
    assert release[True] == {"push": {"tags": ["v*"]}}
    assert release["jobs"]["dist"]["needs"] == "ci"
    assert release["jobs"]["publish"]["needs"] == "dist"
    assert release["jobs"]["site"]["needs"] == "publish"
    assert {release["jobs"][job]["environment"] for job in ("publish", "site")} == {"release"}
    gitlab = yaml.safe_load(GITLAB.read_text())
    assert gitlab["stages"] == ["test", "build", "release"]
    assert gitlab["pages"]["needs"] == ["publish"]
    for job in ("dist", "publish", "pages"):
        assert gitlab[job]["rules"] == [{"if": "$CI_COMMIT_TAG =~ /^v/"}]


def test_no_file_of_theirs_has_an_address() -> None:
    for path in (*WORKFLOWS, GITLAB, *(ROOT / "release").glob("*.py"), ROOT / "requirements" / "release.txt"):
        assert not re.search(r"https?://[a-z0-9]", path.read_text()), path


def test_ci_makes_and_audits_what_would_be_released() -> None:
    lines = read(".ci/run").splitlines()
    assert lines.index("make dist") < lines.index("make site") < lines.index("crowd test tests")
    assert lines[-1] == "make audit"
