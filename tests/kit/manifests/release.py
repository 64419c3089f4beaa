"""The objects of one overlay, and the pods and containers that they create."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from entrypoint import cli
from entrypoint.settings import Settings, read_settings
from entrypoint.settings.service import read_service_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Manifest = dict[str, Any]
    Check = Callable[["Release"], Iterator[str]]

PROGRAM = "entrypoint"
# The content of Secrets.
ADDRESS = "postgresql://shop@db.example.internal:5432/shop"
# How many seconds the program may take to exec the application after its budgets are used up (promise 5 in DESIGN).
OUR_MARGIN = 2


@dataclass(frozen=True)
class Container:
    """One container of a pod."""

    spec: Manifest
    pod: Pod
    init: bool

    @property
    def name(self) -> str:
        """Its name, after the name of its pod's owner."""
        return f"{self.pod.owner['metadata']['name']}/{self.spec['name']}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that have a plain value."""
        return {entry["name"]: entry["value"] for entry in self.spec.get("env", []) if "value" in entry}

    @property
    def from_secrets(self) -> dict[str, tuple[str, str]]:
        """The variables whose value is in a Secret, with the Secret's name and the key."""
        sources = {entry["name"]: entry.get("valueFrom", {}).get("secretKeyRef") for entry in self.spec.get("env", [])}
        return {name: (source["name"], source["key"]) for name, source in sources.items() if source}

    @property
    def command(self) -> str:
        """The command of entrypoint that it runs, or another program; the image's own is `entrypoint run --`."""
        words = self.words or [PROGRAM, "run"]
        return words[1] if words[1:] and _is_us(words[0]) else words[0]

    @property
    def starts_us(self) -> bool:
        """Whether the manifest's command line runs entrypoint, by its name or by a path."""
        return bool(self.words) and _is_us(self.words[0])

    @property
    def words(self) -> list[str]:
        """Its command line, as far as the manifest sets it."""
        return [*self.spec.get("command", []), *self.spec.get("args", [])]

    @property
    def ports(self) -> dict[str, int]:
        """Its ports by name."""
        return {port["name"]: port["containerPort"] for port in self.spec.get("ports", [])}

    @property
    def migrates(self) -> bool:
        """Whether it may migrate."""
        on = self.environment.get("AUTO_MIGRATE") != "false"
        return self.command == "migrate" or (self.command == "run" and on)

    @property
    def after_rollout(self) -> bool:
        """Whether it applies files for after the rollout, for which the program has no time limit."""
        return self.command == "migrate" and "--phase" in self.words

    def settings(self) -> Settings:
        """Return the settings that the program reads from its environment. Raises ConfigurationError."""
        with tempfile.NamedTemporaryFile("w", suffix="-secret") as file:
            # Valid as an address, and as a token.
            file.write(ADDRESS)
            file.flush()
            environment = {
                name: file.name if name.endswith("_FILE") else value for name, value in self.environment.items()
            }
            environment |= dict.fromkeys(self.from_secrets, ADDRESS)
            if self.command == "serve":
                return read_service_settings(environment)[0]
            return read_settings(environment, asked_for=self.command != "run")

    @property
    def budget(self) -> float:
        """How many seconds the program may take in this container."""
        settings = self.settings()
        if self.command == "wait":
            waited = vars(cli.parser().parse_args(self.words[1:]))["timeout"]
            return settings.apply.timeout if waited is None else float(waited)
        if self.command == "backup":
            return settings.connect.longest + settings.apply.timeout + OUR_MARGIN
        if not self.migrates:
            return 0
        waiting = settings.lock.timeout
        if not settings.lock.hard:
            waiting += settings.apply.timeout  # for a living holder, which has as much time as we have
        return settings.connect.longest + waiting + settings.apply.timeout + OUR_MARGIN


@dataclass(frozen=True)
class Pod:
    """The pods that a Deployment, Job or CronJob creates."""

    owner: Manifest

    @property
    def template(self) -> Manifest:
        """The pod template."""
        template: Manifest = (
            self.job["spec"]["template"] if self.owner["kind"] == "CronJob" else self.owner["spec"]["template"]
        )
        return template

    @property
    def job(self) -> Manifest:
        """The Job, or the CronJob's template for one."""
        job: Manifest = self.owner["spec"]["jobTemplate"] if self.owner["kind"] == "CronJob" else self.owner
        return job

    @property
    def annotations(self) -> Mapping[str, str]:
        """The pods' annotations."""
        annotations: Mapping[str, str] = self.template["metadata"].get("annotations", {})
        return annotations

    @property
    def spec(self) -> Manifest:
        """The pods' spec."""
        spec: Manifest = self.template["spec"]
        return spec

    @property
    def labels(self) -> Mapping[str, str]:
        """The pods' labels."""
        labels: Mapping[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def volumes(self) -> list[Manifest]:
        """The volumes that it declares."""
        volumes: list[Manifest] = self.spec.get("volumes", [])
        return volumes

    @property
    def containers(self) -> list[Container]:
        """All containers, the init containers first."""
        return [
            *(Container(spec, self, init=True) for spec in self.spec.get("initContainers", [])),
            *(Container(spec, self, init=False) for spec in self.spec["containers"]),
        ]


class Release(NamedTuple):
    """All objects of one overlay."""

    objects: Sequence[Manifest]

    @classmethod
    def of(cls, objects: Sequence[Manifest]) -> Self:
        """Take the objects that an overlay was built into."""
        return cls(tuple(objects))

    def all(self, kind: str) -> list[Manifest]:
        """Return the objects of a kind."""
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str) -> Manifest:
        """Return the only object of a kind."""
        (item,) = self.all(kind)
        return item

    @property
    def pods(self) -> list[Pod]:
        """The pods of all objects that create pods."""
        return [Pod(item) for item in self.objects if item["kind"] in ("Deployment", "Job", "CronJob")]

    @property
    def containers(self) -> list[Container]:
        """The containers of all pods."""
        return [container for pod in self.pods for container in pod.containers]


def covers(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Tell whether a selector matches these labels."""
    return bool(selector) and selector.items() <= labels.items()


def _is_us(program: str) -> bool:
    return PurePosixPath(program).name == PROGRAM
