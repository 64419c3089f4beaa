"""The shipped Compose files, without an engine: they match the schema, and rules that a schema cannot express.

tests/images/test_compose.py runs them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from kit.manifests.program import known_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.processes import Run

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "compose"
FILES = sorted(COMPOSE.glob("compose*.yaml"))
STACKS = {
    "alone": ["compose.yaml"],
    "job": ["compose.yaml", "compose.job.yaml"],
    "pgbouncer": ["compose.yaml", "compose.pgbouncer.yaml"],
}
Node = dict[str, Any]


def test_the_stacks_are_all_the_files() -> None:
    assert {path.name for path in FILES} == {name for names in STACKS.values() for name in names}


def validate(*paths: Path) -> subprocess.CompletedProcess[str]:
    """Validate files against the Compose specification's schema, which the package includes."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        *paths,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_files_are_valid_by_the_schema() -> None:
    done = validate(*FILES)
    assert done.returncode == 0, done.stdout


def test_the_schema_finds_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text((COMPOSE / "compose.yaml").read_text().replace("stop_grace_period", "stop_grace_time"))
    done = validate(path)
    assert done.returncode != 0
    assert "stop_grace_time" in done.stdout


# --- Several files merged -------------------------------------------------------------------------------


def read(name: str) -> Node:
    """Return a file unchanged, with its variables unexpanded."""
    found: Node = YAML(typ="safe").load(COMPOSE / name)
    return found


def merged(names: list[str]) -> Node:
    """Merge files as Compose does, as far as ours need it: mappings by key, lists appended."""

    def over(under: Any, upper: Any) -> Any:
        if isinstance(under, dict) and isinstance(upper, dict):
            return {
                **under,
                **{key: over(under[key], value) if key in under else value for key, value in upper.items()},
            }
        return under + upper if isinstance(under, list) and isinstance(upper, list) else upper

    whole: Node = {}
    for name in names:
        whole = over(whole, read(name))
    return whole


@pytest.fixture(params=list(STACKS.values()), ids=list(STACKS))
def stack(request: pytest.FixtureRequest) -> Node:
    """Return each of the stacks in turn."""
    return merged(request.param)


def services(stack: Node) -> Iterator[tuple[str, Node]]:
    """Yield the services, each with an environment that may be empty."""
    for name, service in stack["services"].items():
        yield name, {"environment": {}, "secrets": [], "depends_on": {}, **service}


def milliseconds(text: str) -> float:
    """Convert a duration as Compose and HAProxy write it, such as `20s`, `11m` or `500ms`."""
    number, unit = found(r"^(\d+)(ms|s|m)$", text)
    return int(number) * {"ms": 1, "s": 1000, "m": 60_000}[unit]


def found(pattern: str, text: str) -> tuple[str, ...]:
    """Return the groups of the first match; fail if there is none."""
    match = re.search(pattern, text)
    assert match is not None, f"no {pattern} in: {text}"
    return tuple(match.groups())


def test_services_depend_on_services_that_can_be_what_is_awaited(stack: Node) -> None:
    for name, service in services(stack):
        for other, wanted in service["depends_on"].items():
            awaited = stack["services"][other]
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in awaited, f"{name} waits for {other}"
            if wanted["condition"] == "service_completed_successfully":
                assert awaited["restart"] == "no", f"{name} waits for the end of {other}"


def test_secrets_are_declared_mounted_and_made(stack: Node, tmp_path: Path) -> None:
    shutil.copytree(COMPOSE, tmp_path / "compose", ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([tmp_path / "compose" / "make-secrets"], check=True, capture_output=True, timeout=30)
    for secret in stack["secrets"].values():
        assert (tmp_path / "compose" / secret["file"]).read_text().strip()
    used = set()
    for name, service in services(stack):
        used |= set(service["secrets"])
        for variable, value in service["environment"].items():
            if str(value).startswith("/run/secrets/"):
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert Path(value).name in service["secrets"], f"{name}: {variable}"
    assert used == set(stack["secrets"])


def test_the_page_says_who_must_be_told_of_another_password(stack: Node, tmp_path: Path) -> None:
    shutil.copytree(COMPOSE, tmp_path / "compose", ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([tmp_path / "compose" / "make-secrets"], check=True, capture_output=True, timeout=30)
    folder = tmp_path / "compose" / "secrets"
    password = (folder / "postgres_password").read_text().strip()
    holding = {path.name for path in folder.iterdir() if password in path.read_text()}
    page = (ROOT / "docs" / "compose.md").read_text()
    section = page.partition("### Change the password\n")[2].partition("\n## ")[0]
    assert "four files" in section
    assert len(holding) == 4
    for name in holding:
        assert f"`{name}`" in section
    for name, service in services(stack):
        # `db` reads it only at set-up, ./upgrade recreates the replicas and the job, and `after` does not keep running.
        if holding & set(service["secrets"]) and name not in ("db", "app", "migrate", "after"):
            assert f"`docker compose up --detach --no-deps --force-recreate {name}`" in section


def test_the_page_says_which_pg_dump_the_servers_version_needs() -> None:
    (server,) = found(r"postgres:(\d+)", read("compose.yaml")["services"]["db"]["image"])
    (client,) = found(r"ARG POSTGRES_MAJOR=(\d+)", (ROOT / "Dockerfile").read_text())
    assert int(client) < int(server), "they fit: the page need not say more about it"
    page = " ".join((ROOT / "docs" / "compose.md").read_text().split())
    assert f"the server is PostgreSQL {server}" in page
    assert f"has the `pg_dump` {client} of its base" in page
    assert f"POSTGRES_MAJOR={server} ." in page


def test_nothing_secret_is_in_the_repository() -> None:
    assert "compose/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    paths = {path.relative_to(COMPOSE): path for path in COMPOSE.rglob("*")}
    files = [path for name, path in paths.items() if path.is_file() and "secrets" not in name.parts]
    assert len(files) > 10
    for path in files:
        assert not re.search(r"postgresql://[^$\s]+:[^$\s]+@", path.read_text(errors="replace")), path


def test_variables_are_ones_that_the_program_knows(stack: Node) -> None:
    # Variables of the application and of PostgreSQL's image.
    known = known_variables() | {"SHUTDOWN_DELAY_S", "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD_FILE"}
    assert "MIGRATION_TIMEOUT" not in known, "a part of a name is no name"
    for name, service in services(stack):
        assert not set(service["environment"]) - known, name


def test_whoever_waits_for_the_lock_waits_long_enough(stack: Node) -> None:
    migrating = [
        service["environment"] for _, service in services(stack) if "MIGRATION_TIMEOUT_MS" in service["environment"]
    ]
    assert migrating
    for environment in migrating:
        assert int(environment["MIGRATION_LOCK_TIMEOUT_MS"]) >= int(environment["MIGRATION_TIMEOUT_MS"])


def test_a_replica_is_not_unhealthy_before_its_start_can_be_over(stack: Node) -> None:
    app = stack["services"]["app"]
    connecting = 40_000  # from docs/configuration.md
    start = connecting + sum(
        int(app["environment"][name]) for name in ("MIGRATION_LOCK_TIMEOUT_MS", "MIGRATION_TIMEOUT_MS")
    )
    assert milliseconds(app["healthcheck"]["start_period"]) >= start
    (patience,) = found(r"UPGRADE_TIMEOUT_S:-(\d+)", (COMPOSE / "upgrade").read_text())
    assert int(patience) * 1000 >= start


def test_a_replica_that_stops_is_given_time(stack: Node) -> None:
    app = stack["services"]["app"]
    balancer = (COMPOSE / "haproxy.cfg").read_text()
    delay = float(app["environment"]["SHUTDOWN_DELAY_S"]) * 1000
    every, times = found(r"inter (\w+) .*fall (\d+)", balancer)
    # Double the time: a check already on its way counts as answered.
    assert delay >= 2 * int(times) * milliseconds(every)
    (longest,) = found(r"statement_timeout = '(\w+)'", (COMPOSE / "shop" / "version1" / "server.py").read_text())
    assert milliseconds(app["stop_grace_period"]) > delay + milliseconds(longest)


def test_the_balancer_asks_where_the_application_listens(stack: Node) -> None:
    app = stack["services"]["app"]
    balancer = (COMPOSE / "haproxy.cfg").read_text()
    port = app["environment"]["PORT"]
    assert f" app:{port} " in balancer
    # Requests for the address's previous replica must be refused, not answered with 404.
    assert app["environment"].get("MIGRATION_PROBE_PORT") != port
    assert "init-state down" in balancer
    (most,) = found(r"server-template \w+ 1-(\d+)", balancer)
    assert int(most) > app["deploy"]["replicas"], "there is a replica more during an upgrade"


def test_replicas_can_be_added(stack: Node) -> None:
    app = stack["services"]["app"]
    assert app["deploy"]["replicas"] == 3
    # Only one container can have a given name or host port.
    assert not {"container_name", "ports", "hostname"} & set(app)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_older_composes_can_read_it(path: Path) -> None:
    # docker-compose 1.29 accepts no other top-level keys, and no `start_interval`.
    assert set(read(path.name)) <= {"services", "secrets", "volumes", "networks", "configs"}
    for _, service in services(read(path.name)):
        assert "start_interval" not in service.get("healthcheck", {})


# --- The application ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_shops_migrations_pass_check(run_entrypoint: Callable[..., Run], tmp_path: Path, version: int) -> None:
    for earlier in range(1, version + 1):
        shutil.copytree(COMPOSE / "shop" / f"version{earlier}" / "migrations", tmp_path / "m", dirs_exist_ok=True)
    run = run_entrypoint("check", env={"MIGRATIONS_DIR": str(tmp_path / "m")}).ok()
    assert "no errors" in run.stdout
    assert "warning:" not in run.stdout
