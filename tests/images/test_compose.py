"""The shipped Compose files, unchanged, on an isolated engine: shows that docs/compose.md is true.

Debian's docker-compose 1.29 runs them. The images of PostgreSQL and HAProxy are stand-ins, built from Debian's packages
under the names in the files; they support only what these files use of the official images. The shop's images are built
with the documented command, PgBouncer's from its shipped Dockerfile.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from images.kit import bases
from images.stack import COMPOSE, FRONT, REPLICAS, ROOT, STATUS, Stack, calmly
from kit.processes import command_line, descendants, environ, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from images.kit.container import Container
    from images.kit.engine import Engine

POSTGRES = bases.Base("pg-entrypoint-tests/postgres-18", "forky", ("postgresql-18",))
HAPROXY = bases.Base(
    "pg-entrypoint-tests/haproxy",
    "forky",
    ("haproxy", "busybox"),
    stands_for=(
        "haproxy",
        "3.2.",
        "HAPROXY in tests/images/test_compose.py, or the image in compose.yaml with it",
    ),
)
DEBIAN = bases.Base("debian:trixie-slim", "trixie", ("ca-certificates",))

V1 = ["1 completed", "2 completed"]
V2 = [*V1, "3 completed"]

# Images of the shop that differ from a shipped version in one migration.
VARIANTS = {
    # Version 2, but its first migration cannot succeed.
    "2-broken": ("2", "003_price_in_cents.sql", "ALTER TABLE order_lines ADD COLUMN price_cents bigint;\n"),
    # Version 1 and another migration, which waits until the test lets it through.
    "1-gated": ("1", "003_gate.sql", "-- entrypoint: lock-timeout = 10min\nSELECT pg_advisory_xact_lock(4711);\n"),
    # Version 1 and another migration, which runs outside a transaction.
    "1-outside": ("1", "003_by_day.sql", "CREATE INDEX CONCURRENTLY orders_by_day ON orders (ordered_at);\n"),
}
# Orders from before the upgrade.
OLD = 20_000
# Notes each UPDATE that sets the new column of an order, every time.
WATCH = """
    CREATE TABLE fills (order_id bigint);
    CREATE FUNCTION note_fill() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN INSERT INTO fills VALUES (NEW.id); RETURN NULL; END';
    CREATE TRIGGER note_fill AFTER UPDATE OF price_cents ON orders FOR EACH ROW EXECUTE FUNCTION note_fill()
"""
CLOSE_GATE = "SELECT pg_advisory_lock(4711)"
AT_GATE = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"


@pytest.fixture(scope="module")
def machine(
    engine: Engine,
    isolated_engine: Engine,
    image: str,
    full_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Engine:
    """Return the isolated engine with all images that the files name."""
    if shutil.which("docker-compose") is None:
        missing("no docker-compose (Debian: docker-compose)")
    kit = ROOT / "tests" / "images" / "kit"
    standins = ROOT / "tests" / "images" / "standins"
    names = [
        image,
        full_image,
        engine.build(
            kit / "postgres",
            dockerfile=standins / "postgres.Dockerfile",
            tag="postgres:18",
            arguments={"BASE": bases.provide(engine, POSTGRES)},
        ),
        engine.build(
            standins / "haproxy", tag="haproxy:3.2-alpine", arguments={"BASE": bases.provide(engine, HAPROXY)}
        ),
        engine.build(
            COMPOSE / "pgbouncer",
            tag="shop-pgbouncer",
            arguments={"DEBIAN_IMAGE": bases.provide(engine, DEBIAN)},
        ),
    ]
    isolated_engine.copy_from(engine, *names)
    for version in ("1", "2", "3"):
        stack = Stack(isolated_engine, tmp_path_factory.mktemp(f"build{version}"), version=version)
        stack.compose("build")
    for tag, (version, name, text) in VARIANTS.items():
        context = tmp_path_factory.mktemp("variant")
        (context / name).write_text(text)
        for repository in ("shop", "shop-status"):
            (context / "Dockerfile").write_text(f"FROM {repository}:{version}\nCOPY {name} migrations/\n")
            isolated_engine.run("build", "--tag", f"{repository}:{tag}", context)
    return isolated_engine


@pytest.fixture
def project(machine: Engine, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Return a function that creates the project: `project("compose.job.yaml", version="2")`. One per test."""
    stacks: list[Stack] = []

    def make(*files: str, **options: str) -> Stack:
        assert not stacks
        stacks.append(Stack(machine, tmp_path, *files, **options))
        return stacks[0]

    try:
        yield make
    finally:
        for stack in stacks:
            stack.__exit__(None, None, None)


def outcomes(replicas: list[Container]) -> list[str]:
    """Return how the starts of these replicas ended, by the last `schema.…` event of each, sorted."""
    found = []
    for replica in replicas:
        events = [str(record.get("event")) for record in replica.logs()]
        found.append(([event for event in events if event.startswith("schema.")] or ["none"])[-1])
    return sorted(found)


def applied(replicas: list[Container]) -> list[str]:
    """Return the files that these replicas say they have applied, each as often as they say so."""
    return sorted(record["file"] for replica in replicas for record in replica.logs("migration.applied"))


def test_three_replicas_start_cold_one_migrates_and_all_answer(project: Callable[..., Stack]) -> None:
    stack = project()
    stack.up()
    replicas = stack.replicas()
    assert len(replicas) == REPLICAS
    assert stack.ledger() == V1
    assert applied(replicas) == ["001_products.sql", "002_orders.sql"]
    assert [outcome for outcome in outcomes(replicas) if outcome not in {"schema.waited", "schema.up_to_date"}] == [
        "schema.migrated"
    ]
    # In the order the balancer chooses, each of them answers, from the tables.
    answers = [stack.ask(FRONT) for _ in range(2 * REPLICAS)]
    assert {status for status, _ in answers} == {200}
    assert len({page["replica"] for _, page in answers}) == REPLICAS
    assert {(page["version"], page["schema_version"], len(page["products"])) for _, page in answers} == {(1, 2, 3)}
    # Entrypoint has become the application, and no other process is left (except a healthcheck now and then).
    for replica in replicas:
        assert command_line(replica.pid)[1:] == ["server.py"]
        assert descendants(replica.pid) == []

    assert stack.ask(f"{FRONT}/orders", '{"product": 1, "quantity": 2}') == (201, {"order": 1})
    # Stopped and started again: the orders are still there, and there is nothing to do.
    stack.compose("down")
    stack.up()
    assert outcomes(stack.replicas()) == ["schema.up_to_date"] * REPLICAS
    assert stack.ask(FRONT)[1]["orders"] == 1
    # Only the database, while the replicas keep running.
    stack.compose("restart", "db")
    until(calmly(lambda: stack.ask(FRONT)[0] == 200), 60, "an answer after the database's restart")


def test_secrets_are_in_files_and_nowhere_else(project: Callable[..., Stack]) -> None:
    stack = project()
    assert (stack.directory / "secrets").stat().st_mode & 0o777 == 0o700
    stack.up()
    shown = stack.compose("config").stdout
    assert "/run/secrets/database_url" in shown
    said = stack.everything_said()
    assert "shop: version 1 listens" in said, stack.replicas()
    for password in stack.passwords():
        assert password not in shown
        assert password not in said
    for replica in stack.replicas():
        values = environ(replica.pid).values()
        assert not [value for value in values if any(password in value for password in stack.passwords())]
    # Done again, it overwrites nothing.
    before = stack.passwords()
    again = stack.engine.command("./make-secrets", cwd=stack.directory, check=False)
    assert (again.returncode, stack.passwords()) == (1, before)


def test_a_rolling_upgrade_and_the_way_back_lose_no_request(
    project: Callable[..., Stack], record_testsuite_property: Callable[[str, object], None]
) -> None:
    stack = project()
    stack.up()
    old = {replica.name for replica in stack.replicas()}
    for _ in range(3):
        stack.ask(f"{FRONT}/orders", '{"product": 3, "quantity": 1}')

    visitors = stack.visitors()
    began = time.monotonic()
    stack.upgrade("2")
    seconds = time.monotonic() - began
    seen = visitors.result()

    sys.stdout.write(f"rolling upgrade of {REPLICAS} replicas: {seconds:.1f} s; {seen}\n")
    record_testsuite_property("rolling_upgrade_seconds", round(seconds, 1))
    assert seen["failures"] == [], stack.service("balancer").output()
    assert set(seen["versions"]) == {"1", "2"}, "old and new replicas answered side by side"
    new = stack.replicas()
    assert len(new) == REPLICAS
    assert not old & {replica.name for replica in new}
    assert stack.ledger() == V2
    assert applied(new) == ["003_price_in_cents.sql"], "by one of them"
    assert {stack.ask(FRONT)[1]["version"] for _ in range(2 * REPLICAS)} == {2}
    # Whoever got an order's number has the order.
    assert stack.sql("SELECT count(*) FROM orders") == str(3 + seen["placed"])

    assert stack.service("status").state("{{.Config.Image}}") == "shop-status:2", "it knows the new migrations"

    # Version 1 again: the schema stays ahead.
    visitors = stack.visitors()
    stack.upgrade("1")
    seen = visitors.result()
    assert seen["failures"] == [], stack.service("balancer").output()
    assert outcomes(stack.replicas()) == ["schema.ahead"] * REPLICAS
    assert stack.ledger() == V2
    assert {stack.ask(FRONT)[1]["version"] for _ in range(2 * REPLICAS)} == {1}


def test_expand_fill_and_contract_lose_no_request_and_the_floor_stops_an_old_image(
    project: Callable[..., Stack], record_testsuite_property: Callable[[str, object], None]
) -> None:
    """As in docs/compose.md, with 20,000 older orders, and visitors who stay to the end."""
    stack = project()
    stack.up()
    stack.sql(f"INSERT INTO orders (product_id, quantity, price) SELECT 3, 1, 4.25 FROM generate_series(1, {OLD})")
    visitors = stack.visitors()
    stack.upgrade("2")
    # Without what 004 fills, version 3 does not start, and nothing is replaced.
    early = stack.upgrade("3", check=False)
    assert early.returncode == 1
    assert "requires migration 004, which is not completed" in early.stderr
    assert "stopped: 3 replicas are left, 0 of 3 new" in early.stderr

    stack.version = "2"
    filled = stack.sql("SELECT count(*) FROM orders WHERE price_cents IS NULL")
    stack.sql(WATCH)
    stack.compose("run", "--rm", "-T", "after")
    assert stack.ledger() == [*V2, "4 completed"]
    assert stack.sql("SELECT count(*) || ' ' || count(DISTINCT order_id) FROM fills") == f"{filled} {filled}"
    stack.upgrade("3")
    stack.compose("run", "--rm", "-T", "after")
    contracted = stack.ask(FRONT)
    seen = visitors.result()

    sys.stdout.write(f"expand, fill, contract under {REPLICAS} replicas: {seen}\n")
    record_testsuite_property("expand_fill_contract_requests", seen["requests"])
    assert seen["failures"] == [], stack.service("balancer").output()
    assert set(seen["versions"]) == {"1", "2", "3"}
    assert contracted[0] == 200
    assert stack.ledger() == [*V2, "4 completed", "5 completed", "6 completed", "7 completed"]
    orders = str(OLD + seen["placed"])
    assert stack.sql("SELECT count(*) FROM orders") == orders
    whole = "SELECT count(*) FROM orders o JOIN products p ON p.id = o.product_id AND o.price_cents = p.price * 100"
    assert stack.sql(whole) == orders

    # By mistake: the floor stops it, and the replicas of version 3 keep serving.
    before = {replica.name for replica in stack.replicas()}
    visitors = stack.visitors()
    old = stack.upgrade("1", check=False)
    assert old.returncode == 1
    assert "This image is too old for the schema: it does not contain 007_drop_price.sql" in old.stderr
    assert {replica.name for replica in stack.replicas()} == before
    # If the application is started anyway, it is told, and exits.
    old = stack.upgrade("1", check=False, MIGRATION_ON_FAILURE="start")
    assert old.returncode == 1
    assert "shop: version 1 does not work on schema 7: This image is too old" in old.stderr
    assert {replica.name for replica in stack.replicas()} == before
    seen = visitors.result()
    assert seen["failures"] == [], stack.service("balancer").output()
    assert set(seen["versions"]) == {"3"}


def test_when_the_leader_is_killed_another_process_takes_over_and_all_get_up(project: Callable[..., Stack]) -> None:
    stack = project(version="1-gated")
    stack.compose("up", "--detach", "db")
    until(calmly(lambda: stack.service("db").state("{{.State.Health.Status}}") == "healthy"), 120, "a healthy database")
    gate = stack.session(CLOSE_GATE)
    stack.compose("up", "--detach")

    def acquisitions() -> list[Container]:
        return [replica for replica in stack.replicas() for _ in replica.logs("lock.acquired")]

    until(calmly(lambda: stack.sql(AT_GATE) == "1"), 120, "a migration at the gate")
    (leader,) = acquisitions()
    # Not `docker kill`: Docker would think it was stopped on purpose, and not restart it.
    os.kill(leader.pid, signal.SIGKILL)

    def logs() -> str:
        return "\n".join(("another leader", *(replica.output() for replica in stack.replicas())))

    # Docker restarts the killed one at once, and it may be the first to compete for the lock that it has lost.
    until(calmly(lambda: len(acquisitions()) == 2), 60, logs)
    until(calmly(lambda: stack.sql(AT_GATE) == "1"), 60, "the successor, alone at the gate")
    gate.close()
    stack.until_serving()
    assert stack.ledger() == [*V1, "3 completed"]
    assert applied(stack.replicas()) == ["001_products.sql", "002_orders.sql", "003_gate.sql"]
    assert leader.state("{{.RestartCount}}") == "1"


def test_under_exit_a_failed_migration_stops_the_upgrade(project: Callable[..., Stack]) -> None:
    stack = project()
    stack.up()
    old = {replica.name for replica in stack.replicas()}
    visitors = stack.visitors()
    done = stack.upgrade("2-broken", check=False)
    seen = visitors.result()

    assert done.returncode == 1
    assert "order_lines" in done.stderr
    assert "stopped: 3 replicas are left, 0 of 3 new" in done.stderr
    assert seen["failures"] == [], stack.service("balancer").output()
    assert set(seen["versions"]) == {"1"}
    assert {replica.name for replica in stack.replicas()} == old
    assert stack.ledger() == [*V1, "3 failed"]
    # The corrected image succeeds: a changed file is tried again.
    stack.upgrade("2")
    assert stack.ledger() == V2


def test_a_version_of_which_no_replica_starts_is_replaced(project: Callable[..., Stack]) -> None:
    stack = project(version="2-broken")
    stack.compose("up", "--detach")
    until(calmly(lambda: len(stack.replicas()) == REPLICAS), 120, "the replicas")
    broken = {replica.name for replica in stack.replicas()}

    def all_tried_again() -> bool:
        return all(int(replica.state("{{.RestartCount}}")) > 0 for replica in stack.replicas())

    until(calmly(all_tried_again), 120, lambda: f"replicas that end again and again: {stack.replicas()}")
    assert stack.serving() == 0
    stack.upgrade("2")
    # The database was new, and no replica has ever served, so nothing waits for the rollout.
    assert stack.ledger() == [*V2, "4 completed"]
    assert not broken & {replica.name for replica in stack.replicas()}
    assert stack.serving() == REPLICAS
    assert {stack.ask(FRONT)[1]["version"] for _ in range(2 * REPLICAS)} == {2}


def test_an_upgrade_that_is_interrupted_takes_its_new_replica_back(project: Callable[..., Stack]) -> None:
    stack = project()
    stack.up()
    old = {replica.name for replica in stack.replicas()}
    gate = stack.session(CLOSE_GATE)
    upgrade = stack.spawn_upgrade("1-gated")
    until(calmly(lambda: stack.sql(AT_GATE) == "1"), 120, lambda: f"a migration at the gate: {upgrade.report()}")
    began = time.monotonic()
    upgrade.terminate()
    assert upgrade.wait(60) == 143
    assert time.monotonic() - began < 15, "entrypoint itself ends within 2 s"
    gate.close()
    assert {replica.name for replica in stack.replicas()} == old
    assert stack.ledger() == V1
    assert stack.ask(FRONT)[0] == 200


def test_under_start_a_failed_migration_does_not_stop_the_upgrade(project: Callable[..., Stack]) -> None:
    stack = project(MIGRATION_ON_FAILURE="start")
    stack.up()
    old = {replica.name for replica in stack.replicas()}
    visitors = stack.visitors()
    stack.upgrade("2-broken")
    seen = visitors.result()

    # The new version runs on the old schema. It is told so, and this one can work with that.
    assert seen["failures"] == [], stack.service("balancer").output()
    assert set(seen["versions"]) == {"1", "2"}
    assert "failed" in seen["outcomes"]
    replicas = stack.replicas()
    assert len(replicas) == REPLICAS
    assert not old & {replica.name for replica in replicas}
    answers = [stack.ask(FRONT)[1] for _ in range(2 * REPLICAS)]
    assert {(page["version"], page["outcome"], page["schema_version"]) for page in answers} == {(2, "failed", 2)}
    assert stack.ledger() == [*V1, "3 failed"]


def test_with_a_job_the_replicas_start_after_it(project: Callable[..., Stack]) -> None:
    stack = project("compose.job.yaml")
    stack.up()
    job = stack.service("migrate")
    assert job.state("{{.State.ExitCode}}") == "0"
    assert applied([job]) == ["001_products.sql", "002_orders.sql"]
    finished = job.state("{{.State.FinishedAt}}")
    for replica in stack.replicas():
        assert replica.state("{{.State.StartedAt}}") > finished
    assert outcomes(stack.replicas()) == ["schema.up_to_date"] * REPLICAS

    visitors = stack.visitors()
    stack.upgrade("2")
    seen = visitors.result()
    assert seen["failures"] == [], stack.service("balancer").output()
    assert outcomes(stack.replicas()) == ["schema.up_to_date"] * REPLICAS
    assert stack.ledger() == V2


def test_after_a_failed_job_no_replica_starts(project: Callable[..., Stack]) -> None:
    stack = project("compose.job.yaml", version="2-broken")
    done = stack.compose("up", "--detach", check=False)
    assert done.returncode != 0
    assert stack.service("migrate").state("{{.State.ExitCode}}") == "70"
    assert [replica.state("{{.State.Status}}") for replica in stack.replicas() if replica.running] == []
    assert stack.ledger() == [*V1, "3 failed"]


def test_a_failed_job_leaves_running_replicas_alone(project: Callable[..., Stack]) -> None:
    stack = project("compose.job.yaml")
    stack.up()
    old = {replica.name for replica in stack.replicas()}
    visitors = stack.visitors()
    done = stack.upgrade("2-broken", check=False)
    seen = visitors.result()
    assert done.returncode == 70
    assert "order_lines" in done.stdout + done.stderr
    assert seen["failures"] == [], stack.service("balancer").output()
    assert {replica.name for replica in stack.replicas()} == old


def test_through_pgbouncer(project: Callable[..., Stack]) -> None:
    stack = project("compose.pgbouncer.yaml")
    stack.up()
    assert stack.ledger() == V1
    pooler = stack.service("pgbouncer").state("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    visitors = stack.visitors()
    stack.upgrade("2")
    seen = visitors.result()
    assert seen["failures"] == [], stack.service("balancer").output()
    assert stack.ledger() == V2
    # The application itself connects to the pooler, and only there.
    clients = (
        "SELECT DISTINCT host(client_addr) FROM pg_stat_activity WHERE client_addr IS NOT NULL AND datname = 'shop'"
    )
    stack.service("status").engine.run("stop", "--time", "5", stack.service("status").name)
    stack.ask(FRONT)
    assert stack.sql(clients) == pooler


def test_another_password_reaches_whoever_needs_it(project: Callable[..., Stack]) -> None:
    stack = project("compose.pgbouncer.yaml")
    stack.up()
    old, new = stack.passwords()[0], "0123456789abcdef" * 3
    # As the page says, step by step.
    stack.sql(f"ALTER ROLE shop PASSWORD '{new}'")
    for name in ("postgres_password", "database_url", "pooler_url", "pgbouncer_users"):
        path = stack.directory / "secrets" / name
        path.write_text(path.read_text().replace(old, new))
    page = (ROOT / "docs" / "compose.md").read_text()
    first, last = re.findall(r"^\d\. .*`docker compose (up --detach .*--force-recreate \w+)`", page, re.MULTILINE)
    stack.compose(*first.split())
    stack.upgrade("1")
    stack.compose(*last.split())
    answers = [stack.ask(FRONT)[0] for _ in range(2 * REPLICAS)]
    assert answers == [200] * len(answers)
    until(calmly(lambda: stack.ask(f"{STATUS}/readyz")[0] == 200), 60, lambda: repr(stack.service("status")))


def test_migrations_in_a_transaction_go_through_pgbouncer(project: Callable[..., Stack], tmp_path: Path) -> None:
    stack = project("compose.pgbouncer.yaml", "pooler-only.yaml")
    # An empty variable counts as unset.
    override = '{"services": {"app": {"environment": {"MIGRATION_DATABASE_URL_FILE": ""}}}}'
    (stack.directory / "pooler-only.yaml").write_text(override)
    stack.up()
    assert stack.ledger() == V1
    assert applied(stack.replicas()) == ["001_products.sql", "002_orders.sql"]
    # A file that runs outside a transaction is refused before anything runs.
    done = stack.upgrade("1-outside", check=False)
    assert done.returncode == 1
    assert "MIGRATION_DATABASE_URL" in done.stderr
    assert stack.ledger() == V1
    assert len(stack.replicas()) == REPLICAS
    # Over the direct connection, as the file sets it, it succeeds.
    stack.variables["COMPOSE_FILE"] = "compose.yaml:compose.pgbouncer.yaml"
    stack.upgrade("1-outside")
    assert stack.ledger() == [*V1, "3 completed"]


def test_docker_stop_lets_a_replica_finish_and_ends_in_time(project: Callable[..., Stack]) -> None:
    stack = project()
    stack.up()
    replica = stack.replicas()[0]
    address = replica.state("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    blocker = stack.session("BEGIN; LOCK TABLE orders IN EXCLUSIVE MODE")
    order = stack.spawn_ask(f"http://{address}:8080/orders", '{"product": 1, "quantity": 1}')
    until(calmly(lambda: stack.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == "1"), 30, "a waiting order")

    began = time.monotonic()
    stopping = stack.spawn_docker("stop", replica.name)
    until(calmly(lambda: stack.ask(f"http://{address}:8080/readyz")[0] == 503), 15, "a replica that says it stops")
    blocker.close()
    stopping.ok(30)
    assert time.monotonic() - began < 20
    assert order.ok().stdout.strip() == '{"status": 201, "body": "{\\"order\\": 1}"}'
    assert replica.state("{{.State.ExitCode}}") == "0"
    assert "shop: finished" in replica.stderr


def test_the_status_service_answers(project: Callable[..., Stack]) -> None:
    stack = project()
    stack.up()
    until(calmly(lambda: stack.ask(f"{STATUS}/livez")[0] == 200), 60, lambda: repr(stack.service("status")))
    assert stack.ask(f"{STATUS}/readyz")[0] == 200
    assert stack.ask(f"{STATUS}/api/admin/migrations/status")[0] == 401
    token = stack.passwords()[1]
    status, page = stack.ask(f"{STATUS}/api/admin/migrations/status", token=token)
    assert status == 200, page
    found = page["data"]
    assert (found["currentVersion"], found["latestVersion"], found["status"]) == (2, 2, "up_to_date")
