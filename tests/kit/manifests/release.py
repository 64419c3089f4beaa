"""The objects of one overlay, and what pods and containers they make."""

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
# What Secrets hold.
ADDRESS = "postgresql://shop@db.example.internal:5432/shop"
# How long the program may take to hand over when its budgets are used up (DESIGN's promise 5).
OUR_MARGIN = 2


@dataclass(frozen=True)
class Container:
    """One container of a pod."""

    spec: Manifest
    pod: Pod
    init: bool

    @property
    def name(self) -> str:
        """Return its name, with its pod's owner's."""
        return f"{self.pod.owner['metadata']['name']}/{self.spec['name']}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that have a plain value."""
        return {entry["name"]: entry["value"] for entry in self.spec.get("env", []) if "value" in entry}

    @property
    def from_secrets(self) -> dict[str, tuple[str, str]]:
        """Return the variables whose value is in a Secret, with the Secret's name and the key."""
        sources = {entry["name"]: entry.get("valueFrom", {}).get("secretKeyRef") for entry in self.spec.get("env", [])}
        return {name: (source["name"], source["key"]) for name, source in sources.items() if source}

    @property
    def command(self) -> str:
        """Return which of entrypoint's commands it runs, or of others': the image's own is `entrypoint run --`."""
        words = self.words or [PROGRAM, "run"]
        return words[1] if words[1:] and _is_us(words[0]) else words[0]

    @property
    def starts_us(self) -> bool:
        """Return whether the command line that the manifest sets is entrypoint's, by its name or by a path."""
        return bool(self.words) and _is_us(self.words[0])

    @property
    def words(self) -> list[str]:
        """Return its command line as far as the manifest sets it."""
        return [*self.spec.get("command", []), *self.spec.get("args", [])]

    @property
    def ports(self) -> dict[str, int]:
        """Return its ports by name."""
        return {port["name"]: port["containerPort"] for port in self.spec.get("ports", [])}

    @property
    def migrates(self) -> bool:
        """Return whether it may migrate."""
        on = self.environment.get("AUTO_MIGRATE") != "false"
        return self.command == "migrate" or (self.command == "run" and on)

    @property
    def after_rollout(self) -> bool:
        """Return whether it applies what waits for the end of a rollout; the program sets no bound to that."""
        return self.command == "migrate" and "--phase" in self.words

    def settings(self) -> Settings:
        """Return what the program makes of its environment. Raises ConfigurationError."""
        with tempfile.NamedTemporaryFile("w", suffix="-secret") as file:
            # Good as an address, and as a token.
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
        """Return within how many seconds the program is done with what this container has it do."""
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
            waiting += settings.apply.timeout  # Beside a living holder that has as much time as we have.
        return settings.connect.longest + waiting + settings.apply.timeout + OUR_MARGIN


@dataclass(frozen=True)
class Pod:
    """The pods that one Deployment, Job or CronJob makes."""

    owner: Manifest

    @property
    def template(self) -> Manifest:
        """Return the template."""
        template: Manifest = (
            self.job["spec"]["template"] if self.owner["kind"] == "CronJob" else self.owner["spec"]["template"]
        )
        return template

    @property
    def job(self) -> Manifest:
        """Return what is a Job here, or makes one."""
        job: Manifest = self.owner["spec"]["jobTemplate"] if self.owner["kind"] == "CronJob" else self.owner
        return job

    @property
    def annotations(self) -> Mapping[str, str]:
        """Return the pods' annotations."""
        annotations: Mapping[str, str] = self.template["metadata"].get("annotations", {})
        return annotations

    @property
    def spec(self) -> Manifest:
        """Return what a pod is made of."""
        spec: Manifest = self.template["spec"]
        return spec

    @property
    def labels(self) -> Mapping[str, str]:
        """Return the labels that selectors see."""
        labels: Mapping[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def volumes(self) -> list[Manifest]:
        """Return the volumes that it declares."""
        volumes: list[Manifest] = self.spec.get("volumes", [])
        return volumes

    @property
    def containers(self) -> list[Container]:
        """Return all containers, those that come first at the front."""
        return [
            *(Container(spec, self, init=True) for spec in self.spec.get("initContainers", [])),
            *(Container(spec, self, init=False) for spec in self.spec["containers"]),
        ]


class Release(NamedTuple):
    """All objects of one overlay."""

    objects: Sequence[Manifest]

    @classmethod
    def of(cls, objects: Sequence[Manifest]) -> Self:
        """Take what an overlay was built into."""
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
        """Return what makes pods."""
        return [Pod(item) for item in self.objects if item["kind"] in ("Deployment", "Job", "CronJob")]

    @property
    def containers(self) -> list[Container]:
        """Return the containers of all pods."""
        return [container for pod in self.pods for container in pod.containers]


def covers(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether a selector finds these labels."""
    return bool(selector) and selector.items() <= labels.items()


def _is_us(program: str) -> bool:
    return PurePosixPath(program).name == PROGRAM
