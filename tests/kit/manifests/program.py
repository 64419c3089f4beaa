"""Checks that the program understands its configuration: variables, values, command lines."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from entrypoint import cli
from entrypoint.errors import ConfigurationError
from entrypoint.errors.operator import UsageError
from entrypoint.settings import read_names, read_settings
from entrypoint.settings.service import read_service_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kit.manifests.release import Release

# The application's own variable.
NOT_OURS = {"PORT"}


class _Known(dict[str, str]):
    """An environment that remembers which variables the program asks it for."""

    asked: set[str]

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def variables_of(*readers: Callable[[Mapping[str, str]], object]) -> set[str]:
    """Return the variables that these parts of the program read, by running them."""
    environment = _Known()
    environment.asked = set()
    for read in readers:
        read(environment)
    return environment.asked


def program_variables() -> set[str]:
    """Return the variables that the program reads."""
    return variables_of(read_settings, read_service_settings, read_names)


def known_variables() -> set[str]:
    """Return the variables that our manifests and pages may use."""
    return program_variables() | NOT_OURS


def environment(release: Release) -> Iterator[str]:
    """Find variables that the program does not read, or whose value it does not accept."""
    known = known_variables()
    for container in release.containers:
        names = [entry["name"] for entry in container.spec.get("env", [])]
        for name in names:
            if name not in known:
                yield f"{container.name}: nobody reads the variable {name}"
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{container.name}: {name} is set twice"
        if container.command != "run" and "MIGRATION_ON_FAILURE" in names:
            yield f"{container.name}: MIGRATION_ON_FAILURE is about starting an application, and this starts none"
        if container.command == "sleep":
            continue
        if not {f"{prefix}DATABASE_URL{suffix}" for prefix in ("", "MIGRATION_") for suffix in ("", "_FILE")} & {
            *names
        }:
            yield f"{container.name}: it does not know where the database is"
        try:
            container.settings()
        except ConfigurationError as error:
            for fault in error.fields["faults"]:  # type: ignore[attr-defined]
                yield f"{container.name}: {fault}"


def commands(release: Release) -> Iterator[str]:
    """Find command lines that the program does not understand."""
    for container in release.containers:
        if not container.words or container.command == "sleep":
            continue  # the image's own command; or it only waits for other containers
        if not container.starts_us:
            yield f"{container.name}: it does not start entrypoint but {container.words[0]}"
            continue
        try:
            # What follows `--` belongs to the application.
            cli.parser().parse_args(container.words[1 : (*container.words, "--").index("--")])
        except UsageError as error:
            yield f"{container.name}: {shlex.join(container.words)}: {error}"


def who_migrates(release: Release) -> Iterator[str]:
    """Find overlays in which not exactly one container migrates, or the application does not wait for it."""
    migrating = [container.name for container in release.containers if container.migrates]
    if len(migrating) != 1:
        yield f"these migrate: {', '.join(migrating) or 'nobody'}"
    for pod in release.pods:
        if any(container.command == "run" for container in pod.containers) and not any(
            container.command in ("migrate", "wait") or container.migrates for container in pod.containers
        ):
            yield f"{pod.owner['metadata']['name']}: the application does not wait for the schema"
