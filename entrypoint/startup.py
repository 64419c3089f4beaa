"""The story of one start, step by step.

Nearly every start finds nothing pending. So this module imports only what such a start needs, and imports the rest
where it turns out to be needed (docs/startup-cost.md; the list is in tests/test_imports.py).
"""

from __future__ import annotations

import os

from entrypoint import logs
from entrypoint.errors import ConfigurationError, EntrypointError
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Literal

    from entrypoint.command import Command
    from entrypoint.migration.apply.leader import Applied
    from entrypoint.migration.apply.migrator import Result
    from entrypoint.migration.ledger.first_look import Question
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.ledger.repeatables import Repeats, Text
    from entrypoint.migration.ledger.runs import Runs
    from entrypoint.migration.ledger.verdict import Verdict, Wanted
    from entrypoint.migration.observe.board import Board
    from entrypoint.migration.script.files import Directory
    from entrypoint.settings import Settings
    from entrypoint.survey import Survey

    OutcomeName = Literal["up_to_date", "migrated", "waited", "ahead", "disabled", "failed"]
    # Shows a board for as long as its context is open.
    Display = Callable[[Board], AbstractContextManager[None]]


_NO_DIRECTORY = (
    "Set MIGRATIONS_DIR to the image's migrations directory, or set AUTO_MIGRATE=false if there are no migrations."
)


class Outcome(NamedTuple):
    """How the start went: the application's variables and the exit code follow from it."""

    name: OutcomeName
    schema_version: int | None = None
    error: EntrypointError | None = None
    applied: tuple[Applied, ...] = ()
    """The migrations applied by this start."""
    repeated: tuple[str, ...] = ()
    """The repeatable files applied by this start."""

    def variables(self) -> dict[str, str | None]:
        """Return what is added to the application's environment."""
        failed = self.error is not None
        return {
            "ENTRYPOINT_OUTCOME": self.name,
            "ENTRYPOINT_SCHEMA_VERSION": "" if self.schema_version is None else str(self.schema_version),
            "ENTRYPOINT_ERROR": visible(" ".join(self.error.message.split())) if failed and self.error else None,
        }


def prepare_for_application(environ: Mapping[str, str]) -> tuple[Outcome, bool]:
    """Do everything that comes before the application; return the outcome, and whether a failure stops the start.

    Raises nothing but signals: whatever goes wrong is logged with its cause and remedy, and is in the outcome.
    """
    from entrypoint.settings import exits_on_failure, read_settings

    exit_on_failure = exits_on_failure(environ)
    try:
        settings = read_settings(environ)
        return bring_up_to_date(settings), exit_on_failure
    except EntrypointError as error:
        logs.failure(error)
        return Outcome("failed", error.schema_version, error), exit_on_failure
    except Exception as error:  # noqa: BLE001 - a bug of ours must not keep the application from starting
        unexpected = internal_error(error)
        logs.failure(unexpected)
        return Outcome("failed", error=unexpected), exit_on_failure


def bring_up_to_date(
    settings: Settings,
    *,
    up_to: int | None = None,
    after: bool = False,
    display: Display | None = None,
    forced: frozenset[str] = frozenset(),
) -> Outcome:
    """Bring the schema up to date, or find that it already is. Raises EntrypointError.

    `up_to`: the number of the last migration to apply; files in repeatable/ are then not applied. `after`: whether the
    rollout is over. `display`: shows progress, if something is pending. `forced`: the names of files in repeatable/ to
    apply even if they have not changed.
    """
    if not settings.auto_migrate:
        logs.event(logs.INFO, "start.disabled", "AUTO_MIGRATE is false: the database was not touched")
        return Outcome("disabled")
    if settings.probe_port is None:
        return _bring_up_to_date(settings, up_to, after, display, forced)
    from entrypoint.probe import Probe

    with Probe(settings.probe_port):
        return _bring_up_to_date(settings, up_to, after, display, forced)


def _bring_up_to_date(
    settings: Settings,
    up_to: int | None,
    after: bool,  # noqa: FBT001 - an option's value
    display: Display | None,
    forced: frozenset[str],
) -> Outcome:
    # The server is asked in a thread while the files are read here.
    question = _ask(settings)
    try:
        return _answer(question, settings, up_to, after, display, forced)
    finally:
        if question is not None:
            question.close()


def _answer(
    question: Question | None,
    settings: Settings,
    up_to: int | None,
    after: bool,  # noqa: FBT001 - an option's value
    display: Display | None,
    forced: frozenset[str],
) -> Outcome:
    from entrypoint.migration.script import files

    repeating = settings.command is None
    directory = files.load_directory(
        settings.migrations_dir, settings.file_limit, repeating=repeating, remedy=_NO_DIRECTORY
    )
    if directory.faults:
        from entrypoint.migration.script.prepare import refuse_bad_names

        refuse_bad_names(directory)
    from entrypoint.migration.ledger.plan import plan_of

    wanted = None if settings.command is None or up_to is not None else _want(settings.command)
    first = None if question is None else question.answer()
    if first is not None and first.rows is not None and not forced:
        plan = plan_of(directory.files, first.rows, up_to=up_to, after=after)
        verdict = None if wanted is None or first.runs is None else _judge(wanted, first.runs)
        commanded = verdict is not None and verdict.pending
        if not (plan.pending or plan.below or commanded) and not _due(directory, first.texts, up_to):
            tell_differences(directory, plan)
            return _nothing_to_do(plan, up_to, wanted, verdict)
    # There is something to do, or an unusual answer. From here on, a session is needed.
    from entrypoint.migration.ledger.finding import refuse_intrusion
    from entrypoint.survey import survey_beside

    survey = survey_beside(question, settings, directory, up_to, wanted, after=after)
    try:
        refuse_intrusion(survey.place)
        refuse_below_floor(survey.plan, survey.place.schema)
        tell_differences(survey.directory, survey.plan)
        repeats = repeats_on(survey, settings, up_to, forced)
        due = repeats is not None and bool(repeats.due)
        commanded = survey.verdict is not None and survey.verdict.pending
        if not (survey.plan.pending or due or commanded) and not _worth_upgrading(survey.place):
            return _nothing_to_do(survey.plan, up_to, survey.wanted, survey.verdict)
        return _migrate(settings, survey, up_to, after, display, repeats)
    except EntrypointError as error:
        error.schema_version = survey.plan.current if error.schema_version is None else error.schema_version
        raise
    finally:
        survey.session.close()


def _ask(settings: Settings) -> Question | None:
    """Start reading the ledger, without a session. Returns None if this Python lacks what that needs.

    Also None if a command has to print the password first: compared with that, a session costs nothing.
    """
    if settings.address.password_command:
        return None
    try:
        from entrypoint.migration.ledger.first_look import Question
    except ImportError:
        return None
    address, schema, role = settings.address.conninfo, settings.schema, settings.role
    repeating = settings.command is None and _has_repeatables(settings.migrations_dir)
    return Question(address, schema, role, settings.connect.timeout, settings.command, repeating=repeating)


def _has_repeatables(path: str) -> bool:
    """Tell whether there are files in repeatable/. Problems with the directory are found when it is read."""
    try:
        return any(name.endswith(".sql") for name in os.listdir(os.path.join(path, "repeatable")))
    except OSError:
        return False


def _want(command: Command) -> Wanted:
    """Digest what another migration tool reads."""
    from entrypoint.tool.inputs import want

    return want(command)


def _judge(wanted: Wanted, runs: Runs) -> Verdict:
    """Decide whether that tool has anything to do, as far as the first look shows."""
    from entrypoint.migration.ledger.verdict import judge_command

    return judge_command(wanted, runs)


def _due(directory: Directory, texts: Sequence[Text], up_to: int | None) -> frozenset[str]:
    """Return the names of the files in repeatable/ that have to be applied; log which are skipped, and why."""
    if up_to is not None or not directory.repeatables:
        return frozenset()
    from entrypoint.migration.ledger.repeatables import judge_files, tell

    judged = judge_files(directory.repeatables, texts, directory.newest)
    tell(judged, directory.newest)
    return frozenset(file.name for file in judged.due)


def repeats_on(
    survey: Survey, settings: Settings, up_to: int | None, forced: frozenset[str] = frozenset()
) -> Repeats | None:
    """Ask what was applied, and return what to do with the files in repeatable/; None if there are none.

    `forced`: the names of those to apply in any case. Raises EntrypointError.
    """
    if up_to is not None or not survey.directory.repeatables:
        return None
    from entrypoint.migration.ledger.repeatables import Repeats
    from entrypoint.migration.ledger.repeated import read_known
    from entrypoint.survey import until_unlocked

    known = read_known(
        survey.session,
        survey.place,
        settings.schema,
        settings.role,
        lambda read: until_unlocked(read, survey.session, survey.place, settings, survey.clocks),
    )
    seen = max((failure.id for failure in known.failures), default=0)
    return Repeats(forced, seen, forced | _due(survey.directory, known.texts, up_to))


def tell_differences(directory: Directory, plan: Plan) -> None:
    """Log oddities of the files and the ledger that do not stop anything from running."""
    for warning in directory.warnings:
        logs.event(logs.WARNING, "files.warning", warning)
    if plan.changed or plan.missing:
        from entrypoint.migration.ledger.differences import Differences

        Differences().tell(plan)


def refuse_below_floor(plan: Plan, schema: str) -> None:
    """Raise BelowFloorError if an applied migration requires a newer image than this one."""
    if plan.below:
        from entrypoint.migration.ledger.words import below_floor

        raise below_floor(plan, schema)


def internal_error(error: Exception) -> EntrypointError:
    """Return a bug in this program as an error that says where it is; log the traceback at level debug.

    What looks like a bug but is a limit of the container is reported as that limit.
    """
    logs.event(
        logs.DEBUG, "internal_error", f"{type(error).__name__}: {foreign(str(error))}", traceback=_traceback(error)
    )
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return EntrypointError(
            "the system refused to start a thread, which this program needs to connect",
            remedy="Raise the limit on processes (docker run --pids-limit, podPidsLimit in Kubernetes, ulimit -u) or "
            "on memory. If neither is reached, the seccomp profile is the cause: container engines older than "
            "October 2021 do not know the system call clone3. Update Docker (20.10.10 or later) and libseccomp.",
        )
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""
    return EntrypointError(
        f"Internal error: {type(error).__name__}: {foreign(str(error))}{place}",
        remedy="This is a bug in pg-entrypoint. Please report it with the log at LOG_LEVEL=debug.",
    )


def _traceback(error: Exception) -> str:
    import traceback

    return foreign("".join(traceback.format_exception(error)))


def _worth_upgrading(place: Place) -> bool:
    """Tell whether the tables are an earlier system's and the server accepts the changes to upgrade them."""
    return place.outdated and not place.standby and not place.read_only


def _tell_outstanding(plan: Plan) -> None:
    from entrypoint.counts import count

    names = ", ".join(file.name for file in plan.outstanding)
    logs.event(
        logs.INFO,
        "migration.outstanding",
        f"{count(len(plan.outstanding), 'migration waits', 'migrations wait')} for the end of the rollout: {names}; "
        "then run entrypoint migrate --phase after",
        version=plan.current,
        outstanding=len(plan.outstanding),
        files=[file.name for file in plan.outstanding],
    )


def _nothing_to_do(
    plan: Plan, up_to: int | None, wanted: Wanted | None = None, verdict: Verdict | None = None
) -> Outcome:
    if plan.outstanding:
        _tell_outstanding(plan)
    version = plan.current
    if wanted is not None and verdict is not None and verdict.name == "ahead":
        from entrypoint.migration.ledger.judging import tell_if_ahead

        tell_if_ahead(verdict, wanted)
        return Outcome("ahead", version)
    if plan.ahead:
        logs.event(
            logs.INFO,
            "schema.ahead",
            f"the schema is at version {version}, ahead of this image's files, which end at {plan.latest}",
            version=version,
            latest=plan.latest,
        )
        return Outcome("ahead", version)
    logs.event(
        logs.INFO,
        "schema.up_to_date",
        ("the schema is up to date" if up_to is None else f"nothing is pending up to {up_to}; the schema is")
        + ("" if version is None else f" at version {version}"),
        version=version,
    )
    return Outcome("up_to_date", version)


def _migrate(
    settings: Settings,
    survey: Survey,
    up_to: int | None,
    after: bool,  # noqa: FBT001 - an option's value
    display: Display | None,
    repeats: Repeats | None,
) -> Outcome:
    """Apply what is pending, then the files in repeatable/; or wait until somebody else has."""
    place, plan = survey.place, survey.plan
    due = frozenset() if repeats is None else repeats.due
    from contextlib import nullcontext

    from entrypoint import phase
    from entrypoint.counts import count
    from entrypoint.migration.apply.migrator import migrate
    from entrypoint.survey import assign, collect_garbage, refuse_read_only

    collect_garbage()
    verdict = survey.verdict
    commanded = verdict is not None and verdict.pending
    what = f"{count(len(plan.pending), 'migration is', 'migrations are')} pending"
    if not plan.pending and (due or commanded):
        what = f"repeatable/{min(due)}.sql must be applied" if due else "MIGRATION_COMMAND must run"
    refuse_read_only(survey, what)
    if (plan.pending or commanded) and plan.outstanding:
        _tell_outstanding(plan)
    phase.know(version=plan.current, latest=plan.latest, pending=len(plan.pending))
    if plan.pending or not (due or commanded):
        _tell_pending(plan)
    if due:
        repeatable = f"{count(len(due), 'repeatable file')} to be applied: {', '.join(sorted(due))}"
        logs.event(logs.INFO, "repeatable.pending", repeatable, files=sorted(due))
    if commanded and survey.wanted is not None and verdict is not None:
        from entrypoint.migration.ledger.judging import tell_pending

        tell_pending(verdict, survey.wanted)
    try:
        # If no repeatable file is due, a pending migration may still have a `refresh`.
        wanted = repeats if due or plan.pending else None
        assignment = assign(settings, survey, up_to, after=after, repeats=wanted)
        with display(assignment.board) if display is not None and (plan.pending or commanded) else nullcontext():
            result = migrate(assignment, plan, survey.session, place)
    except ConfigurationError:
        raise
    except EntrypointError as error:
        if plan.pending or due or commanded:
            raise
        # Only the ledger needs an upgrade, and it can be read as it is.
        logs.failure(error, level=logs.WARNING)
        return _nothing_to_do(plan, up_to, survey.wanted, verdict)
    return _migrated(result)


def _tell_pending(plan: Plan) -> None:
    from entrypoint.counts import count

    logs.event(
        logs.INFO,
        "migration.pending",
        f"{count(len(plan.pending), 'migration')} pending: {_range(plan)}"
        if plan.pending
        else "the migration history is from an earlier system and will be upgraded",
        version=plan.current,
        latest=plan.latest,
        pending=len(plan.pending),
    )


def _migrated(result: Result) -> Outcome:
    if result.commanded is not None and not result.applied:
        logs.event(
            logs.INFO,
            "schema.migrated",
            f"{result.commanded.command} brought the schema up to date in {logs.took(result.commanded.seconds * 1000)}",
            version=result.current,
            duration_ms=round(result.commanded.seconds * 1000),
        )
        return Outcome("migrated", result.current)
    if result.applied:
        from entrypoint.counts import count

        milliseconds = sum(migration.seconds for migration in result.applied) * 1000
        logs.event(
            logs.INFO,
            "schema.migrated",
            f"applied {count(len(result.applied), 'migration')} in {logs.took(milliseconds)}; "
            f"the schema is at version {result.current}",
            version=result.current,
            applied=len(result.applied),
            duration_ms=round(milliseconds),
        )
        return Outcome("migrated", result.current, applied=result.applied, repeated=result.repeated)
    if result.verdict is not None and result.verdict.name == "ahead":
        return Outcome("ahead", result.current)
    if result.repeated:
        return Outcome("migrated", result.current, repeated=result.repeated)
    if not result.waited:
        # Somebody else finished between our first look and our turn; or only the ledger needed an upgrade.
        logs.event(
            logs.INFO,
            "schema.up_to_date",
            "the schema is up to date" + _at(result.current),
            version=result.current,
        )
        return Outcome("up_to_date", result.current)
    logs.event(
        logs.INFO,
        "schema.waited",
        "another replica brought the schema "
        + ("up to date" if result.current is None else f"to version {result.current}"),
        version=result.current,
    )
    return Outcome("waited", result.current)


def _at(version: int | None) -> str:
    return "" if version is None else f" at version {version}"


def _range(plan: Plan) -> str:
    first, last = plan.pending[0].name, plan.pending[-1].name
    return first if len(plan.pending) == 1 else f"{first} to {last}"
