"""k8s/monitoring: a real Prometheus loads the rules and scrapes the real service.

The dashboard queries only metrics that the service exports.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from conftest import missing
from demo.postgres import HOST, free_port
from kit.kustomize import FOLDER
from kit.processes import Run, until
from kit.web import TOKEN
from scene import Gate, Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.databases import Database
    from kit.web import Serving

    Serve = Callable[..., Serving]

MONITORING = FOLDER / "monitoring"
RULES: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
METRIC = re.compile(r"\bpg_entrypoint_[a-z_]+")
ALL_RULES: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"] for rule in ALL_RULES if "alert" in rule}
NAMESPACE = "shop"
BAD = {"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "ALTER TABLE nobody ADD x int;"}


def program(name: str) -> str:
    """Return the path of one of Prometheus' programs."""
    found = shutil.which(name)
    if found is None:
        missing(f"no {name} (Debian: prometheus)")
    return found


def promtool(*arguments: str | Path) -> str:
    """Return the output of promtool, which must succeed."""
    argv = [program("promtool"), *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dashboard_queries() -> list[str]:
    """Return the dashboard's queries, with its variables filled in."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    found += [note["expr"] for note in DASHBOARD["annotations"]["list"]]
    return [query.replace("$namespace", NAMESPACE).replace("$database", ".*") for query in found]


# --- The rules ------------------------------------------------------------------------------------------


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(RULES))
    return file


def test_promtool_takes_the_rules(rules: Path) -> None:
    assert f"{len(ALL_RULES)} rules found" in promtool("check", "rules", "--lint-fatal", rules)


def test_each_alert_fires_when_it_should_and_not_before(rules: Path, tmp_path: Path) -> None:
    """By promtool's clock. `tests/fixtures/alerts.yaml` has a history for each alert."""
    tests = yaml.safe_load((Path(__file__).parent / "fixtures" / "alerts.yaml").read_text())
    fired = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == ALERTS
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({**tests, "rule_files": [str(rules)]}))
    promtool("test", "rules", file)


def test_the_alerts_texts_lead_somewhere() -> None:
    for rule in ALL_RULES:
        if "alert" not in rule:
            continue
        assert rule["labels"]["severity"] in ("warning", "critical")
        text = rule["annotations"]["description"]
        for name in re.findall(r"\b(?:docs|k8s)/[\w/.-]+\w", text):
            assert (FOLDER.parent / name).exists(), name
        assert re.search(r"\b(?:docs|k8s)/", text), rule["alert"]


# --- The dashboard --------------------------------------------------------------------------------------


def test_the_dashboard_is_one() -> None:
    """It matches what Grafana requires of a dashboard: the parts of its 2024 schema that we use."""
    assert DASHBOARD.keys() >= {"uid", "title", "schemaVersion", "panels", "templating", "time", "refresh"}
    assert "id" not in DASHBOARD, "that is the number in somebody's Grafana"
    panels = DASHBOARD["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] in ("stat", "timeseries")
        assert panel["title"]
        assert panel["description"].endswith(".")
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24, "a row of Grafana's has 24 columns"
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[0]["value"] is None
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEF"[: len(panel["targets"])])
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert used == variables == {"datasource", "namespace", "database"}


# --- Both, against the real service ---------------------------------------------------------------------


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def exported(serving: Serving) -> set[str]:
    """Return the names of all samples that the service exports."""
    return {sample.name for family in parse(serving.ask("/metrics").body.decode()) for sample in family.samples}


def test_only_metrics_that_are_exported_are_asked_for(scene: Scene, serve: Serve) -> None:
    after = "-- entrypoint: phase = after\nSELECT 1;"
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    scene.migrated()
    (scene.migrations / "repeatable").mkdir()
    scene.write({"002_b.sql": after, "repeatable/v.sql": "CREATE VIEW v AS SELECT 1 AS i;"})
    serving = serve(scene.database.url)
    found = exported(serving)
    scene.write({"003_c.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        gate.arrival()
        # Some are exported only while somebody holds the lock.
        until(lambda: "pg_entrypoint_lock_held_seconds" in exported(serving), 10, "the lock")
        found |= exported(serving)
    working.ok()
    rules = [rule["expr"] for rule in ALL_RULES]
    asked = {name for query in (*rules, *dashboard_queries()) for name in METRIC.findall(query)}
    assert asked <= found
    told = {name for variable in DASHBOARD["templating"]["list"] for name in METRIC.findall(str(variable))}
    assert told <= found


class Prometheus:
    """A server that scrapes one service, as the operator would configure it from the ServiceMonitor."""

    def __init__(self, folder: Path, target: int, *, pace: str = "200ms") -> None:
        """`target` is the service's port."""
        (endpoint,) = yaml.safe_load((MONITORING / "service-monitor.yaml").read_text())["spec"]["endpoints"]
        rules = copy.deepcopy(RULES)
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule.pop("for", None)  # promtool's clock tests that
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        (folder / "token").write_text(TOKEN)
        scrape = {
            "job_name": "shop-status",
            "metrics_path": endpoint["path"],
            "authorization": {"credentials_file": str(folder / "token")},
            "static_configs": [{"targets": [f"{HOST}:{target}"], "labels": {"namespace": NAMESPACE}}],
        }
        paces = {"scrape_interval": pace, "scrape_timeout": pace, "evaluation_interval": pace}
        configuration = {"global": paces, "rule_files": [str(folder / "rules.yaml")], "scrape_configs": [scrape]}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        promtool("check", "config", folder / "prometheus.yaml")
        self._address = f"{HOST}:{free_port()}"
        argv = [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self._address}",
        ]
        self.run = Run(argv, env={"PATH": "/usr/bin"}, directory=folder)

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self._address}/api/v1/{path}", timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def firing(self) -> set[str]:
        """Return the alerts that are firing; none before the server has started."""
        try:
            return {alert["labels"]["alertname"] for alert in self._ask("alerts")["alerts"]}
        except OSError:
            return set()

    def value(self, query: str) -> list[float]:
        """Return the current result of a query: one value for each series."""
        return [float(item["value"][1]) for item in self._ask(f"query?query={urllib.parse.quote(query)}")["result"]]


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[Serving], Prometheus]]:
    started: list[Prometheus] = []

    def start(serving: Serving) -> Prometheus:
        folder = tmp_path / "prometheus"
        folder.mkdir()
        started.append(Prometheus(folder, serving.port))
        return started[-1]

    yield start
    for one in started:
        one.run.close()


def test_a_real_prometheus_tells_of_a_failed_migration_and_of_its_end(
    scene: Scene, serve: Serve, prometheus: Callable[[Serving], Prometheus]
) -> None:
    scene.write(BAD)
    scene.migrate()
    server = prometheus(serve(scene.database.url))
    until(
        lambda: server.firing() == {"MigrationFailed"}, 60, lambda: f"the alert: {server.firing()} {server.run.stderr}"
    )
    for query in dashboard_queries():
        if "lock_held_seconds" not in query:
            assert server.value(query) or "changes(" in query, query
    (failed,) = (panel for panel in DASHBOARD["panels"] if panel["title"] == "Failed")
    assert server.value(failed["targets"][0]["expr"].replace("$namespace", NAMESPACE).replace("$database", ".*")) == [1]

    scene.write({"002_b.sql": "CREATE TABLE b ();"})
    scene.migrated()
    until(lambda: server.firing() == set(), 60, lambda: f"the end of the alert: {server.firing()}")


@pytest.mark.thorough
def test_a_real_prometheus_tells_of_a_database_that_is_away(
    scene: Scene, serve: Serve, prometheus: Callable[[Serving], Prometheus]
) -> None:
    scene.write({"001_a.sql": "CREATE TABLE a ();"})
    scene.migrated()
    address = f"postgresql://{HOST}:{free_port()}/shop"
    server = prometheus(serve(address, DB_CONNECT_TIMEOUT_MS=100))
    wanted = {"MigrationStatusUnreadable"}
    until(lambda: server.firing() == wanted, 60, lambda: f"the alert: {server.firing()} {server.run.stderr}")
