"""The reports at the end of a start or a Job, besides the log: a command after a failure, and a metrics file.

This is only imported if one of the two is configured. It never changes how the start ends: errors here are warnings.
"""

from __future__ import annotations

import os
import time

from entrypoint import logs
from entrypoint.redaction import foreign
from entrypoint.settings import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from entrypoint.startup import Outcome

_COMMAND = "MIGRATION_FAILURE_COMMAND"
# How many seconds the command may delay the application, or the end of the Job.
_PATIENCE = 10.0
_MOST_SAID = 500
_PREFIX = "pg_entrypoint_last"
_SUCCESS = f"{_PREFIX}_success_timestamp_seconds"
# The earlier file should be ours, with a dozen lines.
_LONGEST_FILE = 65_536


def report(outcome: Outcome, command: str, environ: Mapping[str, str]) -> None:
    """Report how `command` ended. Raises nothing but Interrupted, after a signal."""
    if outcome.name == "disabled":
        return
    reports = Reader(environ).reports()
    if reports.metrics_file is not None:
        _write_metrics(reports.metrics_file, outcome, command)
    if outcome.error is not None and reports.failure_command:
        record = logs.failure_as_json(outcome.error)
        variables = {name: value for name, value in outcome.variables().items() if value is not None}
        _run(reports.failure_command, record, {**environ, **variables})


def _run(argv: tuple[str, ...], record: str, environ: Mapping[str, str]) -> None:
    """Run MIGRATION_FAILURE_COMMAND with the failure on its stdin."""
    from entrypoint import bounded  # It imports `subprocess`, and failures are rare.
    from entrypoint.deadline import Deadline

    began = time.monotonic()
    said, complaints = "", b""
    try:
        data = f"{record}\n".encode(errors="backslashreplace")
        ended = bounded.run(argv, Deadline(_PATIENCE), environ=environ, data=data)
    except OSError as error:
        said = f"cannot be run: {error.strerror or foreign(str(error))}"
    except bounded.OutOfTime:
        said = f"did not finish within {_PATIENCE:g} s and was killed"
    else:
        if ended.code != 0:
            said, complaints = f"ended with {ended.how}", ended.complaints or ended.output
    lines = "; ".join(filter(None, map(str.strip, complaints.decode(errors="replace").splitlines())))
    milliseconds = round((time.monotonic() - began) * 1000)
    if said:
        detail = foreign(lines)[-_MOST_SAID:] or None
        logs.event(
            logs.WARNING,
            "failure_command.failed",
            f"{_COMMAND} {said}{f': {detail}' if detail else ''}",
            duration_ms=milliseconds,
        )
    else:
        logs.event(logs.INFO, "failure_command.done", f"{_COMMAND} was run", duration_ms=milliseconds)


def _write_metrics(path: str, outcome: Outcome, command: str) -> None:
    """Write MIGRATION_METRICS_FILE, completely or not at all."""
    now = time.time()
    succeeded = now if outcome.error is None else _earlier_success(path)
    labels = {name: logs.described(name) for name in ("database", "schema", "app_version")}
    text = exposition(outcome, {"command": command, **labels}, now, _seconds_since_start(), succeeded)
    # In the same directory, so that it can be renamed. Collectors ignore it, as its name does not end in .prom.
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{logs.run_id()}")
    try:
        _write(temporary, text.encode(errors="backslashreplace"))
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        logs.event(
            logs.WARNING, "metrics_file.not_written", f"MIGRATION_METRICS_FILE cannot be written: {error.strerror}"
        )
    except BaseException:
        _remove(temporary)
        raise


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(descriptor, 0o644)  # Whatever the umask is, because node_exporter runs as another user.
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def exposition(outcome: Outcome, labels: Mapping[str, str], now: float, seconds: float, succeeded: float | None) -> str:
    """Return the metrics in Prometheus' text format. Pure; times are in seconds, `succeeded` since 1970."""
    where = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())

    def metrics() -> Iterator[tuple[str, str, str, float]]:
        yield "run_timestamp_seconds", "When the last start or Job ended, as a Unix time.", "", now
        yield "run_duration_seconds", "How long it took, without the application.", "", seconds
        yield "run_failed", "Whether it failed.", "", float(outcome.error is not None)
        about = "How it ended: 1 for the outcome in ENTRYPOINT_OUTCOME."
        yield "run_outcome", about, f',outcome="{outcome.name}"', 1.0
        if outcome.schema_version is not None:
            yield "run_schema_version", "The schema version when it ended.", "", outcome.schema_version
        if succeeded is not None:
            yield (
                "success_timestamp_seconds",
                "When the last one without a failure ended, as a Unix time.",
                "",
                succeeded,
            )

    lines = []
    for name, about, more, value in metrics():
        full = f"{_PREFIX}_{name}"
        shown = str(value) if isinstance(value, int) else f"{value:.3f}"
        lines += [f"# HELP {full} {about}", f"# TYPE {full} gauge", f"{full}{{{where}{more}}} {shown}"]
    return "".join(f"{line}\n" for line in lines)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _earlier_success(path: str) -> float | None:
    """Return when a run last succeeded, according to the previous file; None if it does not say."""
    try:
        with open(path, "rb") as file:
            lines = file.read(_LONGEST_FILE).decode(errors="replace").splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{_SUCCESS}{{")), None)
    except (OSError, ValueError):
        return None


def _seconds_since_start() -> float:
    """Return how long this process has been running, according to the kernel; 0 if unknown."""
    try:
        with open("/proc/self/stat", "rb") as file:
            # starttime is field 22 (proc(5)). Count after the command's name, which may contain anything.
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
