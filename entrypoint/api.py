"""Migrate, ask for the status and check files from Python: `from entrypoint import api`. Documented in docs/python.md.

No signals, no exec, no global state: a call neither reads nor sets any of this program's variables, sets up no logging,
ends no process, and may run in any thread, alongside other calls. Everything else works as in the program, above all
the lock.

The work runs in a separate thread while the caller waits. So an exception that hits the caller in the middle
(KeyboardInterrupt, a test's timeout) cannot leave a migration half done: the thread is asked to stop, as a signal asks
the program, and frees the lock first (docs/decisions/0050-the-work-of-the-api-has-its-own-thread.md).
"""

from __future__ import annotations

import _collections_abc
import contextlib
import os
import time

from entrypoint import errors, logs, redaction, signals
from entrypoint.deadline import SLICE, sliced
from entrypoint.errors import EntrypointError
from entrypoint.records import LONGEST_AFTER, Address, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing
    from collections.abc import Callable, Iterable, Mapping
    from typing import NoReturn, TypeVar

    from entrypoint.operations import status as status_operation
    from entrypoint.settings import Settings
    from entrypoint.startup import Outcome

    _T = TypeVar("_T")


class _Typing:
    """Replaces the module `typing`, which takes longer to import than all of this, until it is first used."""

    def __getattr__(self, name: str) -> object:
        import typing

        return getattr(typing, name)


# The names in annotations, for code that evaluates them (`typing.get_type_hints`, FastAPI). These are not assignments,
# which would hide the names' real meaning from linters.
globals().update(typing=_Typing(), Iterable=_collections_abc.Iterable, Mapping=_collections_abc.Mapping)

__all__ = [
    "AppliedMigration",
    "CheckResult",
    "Finding",
    "MigrateResult",
    "MigrationStatus",
    "StatusResult",
    "check",
    "errors",
    "migrate",
    "status",
]

LOGGER = "entrypoint"

# Allowed in `variables`: the variables that affect migrations and are not parameters here.
_VARIABLES = frozenset(
    {
        "DATABASE_PASSWORD_COMMAND",
        "DB_CONNECT_ATTEMPTS",
        "DB_CONNECT_BACKOFF_MS",
        "DB_CONNECT_TIMEOUT_MS",
        "MIGRATION_ADOPT",
        "MIGRATION_BACKUP_DIR",
        "MIGRATION_DDL_LOCK_TIMEOUT_MS",
        "MIGRATION_FILE_LIMIT_MB",
        "MIGRATION_LOCK_STALE_MS",
        "MIGRATION_OUT_OF_ORDER",
    }
)
# One millisecond, the unit of the variables, in seconds.
_SHORTEST = 0.001
# A longer time in seconds, such as infinity, is a mistake.
_FOREVER = 2_000_000.0
# Seconds for the thread's clean-up. Each of its steps has a limit, and together they are shorter.
_CLEAN_UP = 10.0


class AppliedMigration(NamedTuple):
    """A migration that a call applied."""

    number: int
    filename: str
    seconds: float


class MigrateResult(NamedTuple):
    """The result of `migrate`. Fields may be added later, so access them by name."""

    outcome: typing.Literal["up_to_date", "migrated", "waited", "ahead"]
    """As in ENTRYPOINT_OUTCOME: `waited` if another process applied the migrations, `ahead` if the schema is newer."""
    schema_version: int | None
    """The highest applied number; None if nothing is applied."""
    applied: tuple[AppliedMigration, ...]
    """What this call applied, in that order."""
    repeatables: tuple[str, ...]
    """The names of the repeatable files that it applied."""
    seconds: float
    """How long the call took."""
    run_id: str
    """The id that its log lines, its database sessions and its row in `migration_lock` share."""


class MigrationStatus(NamedTuple):
    """One migration, according to the database and the files."""

    number: int
    filename: str
    state: str
    """applied, pending, after, running, failed, changed, missing or ahead (docs/commands/status.md)."""
    applied_at: str | None
    """ISO 8601."""
    seconds: float | None
    """How long it took."""
    application_version: str | None
    error: str | None


class StatusResult(NamedTuple):
    """The result of `status`. Fields may be added later, so access them by name."""

    state: typing.Literal["up_to_date", "pending", "error"]
    schema_version: int
    """The highest applied number; 0 if nothing is applied."""
    latest_version: int
    """The highest number among the files; 0 if there are none."""
    applied: int
    pending: int
    migrations: tuple[MigrationStatus, ...]
    document: Mapping[str, typing.Any]
    """Everything, as in `entrypoint status --json`."""


class Finding(NamedTuple):
    """One finding about a file, or about the check itself."""

    level: typing.Literal["error", "warning", "note"]
    rule: str
    message: str
    file: str | None
    """The path, relative to the current directory if the file is below it; None if no file is concerned."""
    line: int | None
    """Counted from 1."""
    column: int | None
    """In characters, counted from 1."""
    remedy: str | None


class CheckResult(NamedTuple):
    """The result of `check`. Fields may be added later, so access them by name."""

    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The reasons why a start would be refused, or fail."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What would hurt under traffic."""
        return tuple(finding for finding in self.findings if finding.level == "warning")


def migrate(  # noqa: PLR0913 - options by name
    url: str,
    directory: str | os.PathLike[str] = "migrations",
    *,
    to: int | None = None,
    after: bool = False,
    schema: str | None = None,
    role: str | None = None,
    timeout: float | None = None,
    lock_timeout: float | None = None,
    app_version: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> MigrateResult:
    """Bring the schema up to date, or wait while another process does, like `entrypoint migrate`.

    `url`: a libpq URL or conninfo string, or an address as another driver writes it. `to`: the number of the last
    migration to apply. `after`: the rollout is over, so apply the files with `phase = after`, too. `schema`, `role`: as
    MIGRATION_SCHEMA and MIGRATION_ROLE. `timeout`: seconds for all migrations together (default 300). `lock_timeout`:
    seconds to wait for the lock; by default 30, or as long as a living holder may take. `app_version`: the application
    version to record. `variables`: other variables of the program, such as `{"DB_CONNECT_ATTEMPTS": "1"}`.

    Raises EntrypointError; its `remedy` says what to do, and `applied` names the files that were applied before it.
    """
    _must_be((int, _NONE), to=to)
    _must_be((bool,), after=after)
    _must_be((float, int, _NONE), timeout=timeout, lock_timeout=lock_timeout)
    _must_be((str, _NONE), schema=schema, role=role, app_version=app_version)
    _must_be((str,), url=url)
    given = {
        "MIGRATION_SCHEMA": schema,
        "MIGRATION_ROLE": role,
        "MIGRATION_TIMEOUT_MS": _milliseconds("timeout", timeout),
        "MIGRATION_LOCK_TIMEOUT_MS": _milliseconds("lock_timeout", lock_timeout),
        "APP_VERSION": app_version,
    }
    settings, secrets = _settings(url, directory, variables, given)

    def work() -> Outcome:
        from entrypoint.startup import bring_up_to_date

        if to is not None:
            from entrypoint.operations.dry_run import check_target

            check_target(settings, to)
        policy = settings.apply._replace(timeout=LONGEST_AFTER) if after and timeout is None else settings.apply
        return bring_up_to_date(settings._replace(apply=policy), up_to=to, after=after)

    began = time.monotonic()
    outcome, run_id = _apart(work, secrets)
    return MigrateResult(
        outcome=outcome.name,  # type: ignore[arg-type]  # neither `disabled` nor `failed`: it was asked for, or raised
        schema_version=outcome.schema_version,
        applied=tuple(AppliedMigration(one.version, one.file, one.seconds) for one in outcome.applied),
        repeatables=outcome.repeated,
        seconds=time.monotonic() - began,
        run_id=run_id,
    )


def status(
    url: str,
    directory: str | os.PathLike[str] = "migrations",
    *,
    schema: str | None = None,
    role: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> StatusResult:
    """Compare the files with the database, like `entrypoint status`. The parameters are those of `migrate`.

    Raises EntrypointError if there is no answer. A failed migration is an answer: `state` is then `error`.
    """
    _must_be((str,), url=url)
    _must_be((str, _NONE), schema=schema, role=role)
    settings, secrets = _settings(url, directory, variables, {"MIGRATION_SCHEMA": schema, "MIGRATION_ROLE": role})

    def work() -> tuple[status_operation.Status, dict[str, object]]:
        from entrypoint.operations.status import read

        found = read(settings)
        return found, found.documented()

    (found, document), _ = _apart(work, secrets)
    return StatusResult(
        state=found.name,
        schema_version=found.current,
        latest_version=found.latest,
        applied=found.applied,
        pending=found.pending,
        migrations=tuple(
            MigrationStatus(
                line.number,
                line.filename,
                line.state,
                line.applied_at,
                None if line.milliseconds is None else line.milliseconds / 1000,
                line.application_version,
                line.error,
            )
            for line in found.lines
        ),
        document=document,
    )


def check(
    directory: str | os.PathLike[str] = "migrations",
    *,
    files: Iterable[str | os.PathLike[str]] | None = None,
    lint: bool | None = None,
    against: str | None = None,
    url: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> CheckResult:
    """Check the migration files, like `entrypoint check`; without a database, unless you pass a `url`.

    `files`: check only these (an empty collection checks nothing); None for all. `lint`: whether to run the linter
    squawk; None to run it if it is installed. `against`: a branch, tag or commit to compare with. `url`: the database
    to ask what is already applied; for applied files, only errors are returned.

    Raises EntrypointError if the files cannot be checked. Findings are in the result and raise nothing.
    """
    _must_be((str, _NONE), url=url, against=against)
    _must_be((bool, _NONE), lint=lint)
    settings, secrets = _settings(url, directory, variables, {})
    if isinstance(files, (str, bytes)):
        raise TypeError("files must be a collection of names, not a single string")
    names = tuple(_name(files=file) for file in files or ())
    if files is not None and not names:
        return CheckResult(())

    def work() -> tuple[Finding, ...]:
        from entrypoint.operations.check import CheckOptions
        from entrypoint.operations.check import check as check_files

        wishes = CheckOptions(names, lint, url is None, against)
        # The linter and git are found by PATH, as for any child process.
        found = check_files(settings, wishes, os.environ.get("PATH", os.defpath)).findings
        return tuple(Finding(*one[:6], one.remedy and _in_parameters(one.remedy)) for one in found)

    return CheckResult(_apart(work, secrets)[0])


# The variables and options in the program's messages, with the parameters that replace them.
_PARAMETERS = {
    "MIGRATIONS_DIR": "directory",
    "MIGRATION_SCHEMA": "schema",
    "MIGRATION_ROLE": "role",
    "MIGRATION_TIMEOUT_MS": "timeout",
    "MIGRATION_LOCK_TIMEOUT_MS": "lock_timeout",
    "MIGRATION_DATABASE_URL": "url",
    "DATABASE_URL": "url",
    "Use a number that entrypoint status lists: entrypoint migrate --to N": "Pass the number of one of them as `to`.",
    "Correct the name. Without names, entrypoint check checks all files.": (
        "Pass paths relative to the current directory, not to `directory`."
    ),
    "entrypoint check --no-lint": "lint=False",
    "MIGRATIONS_DIR=db/migrations entrypoint check db/migrations/001_a.sql": (
        'check("db/migrations", files=["db/migrations/001_a.sql"])'
    ),
    "MIGRATION_BACKUP_DIR or --dir": "MIGRATION_BACKUP_DIR",
    "Use --all": "Leave out url",
    "--no-lint": "lint=False",
    "--lint": "lint=True",
    "--against": "against",
}


_NONE = type(None)


def _must_be(kinds: tuple[type, ...], **given: object) -> None:
    """Raise TypeError for the first argument of another type; True does not count as a number.

    Raise ConfigurationError for a text that cannot be sent to a server, because it contains a NUL or a lone surrogate.
    """
    for name, value in given.items():
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join("None" if kind is _NONE else kind.__name__ for kind in kinds)
            raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")
        if isinstance(value, str) and _is_odd(value, as_variable=name.startswith("variables")):
            _refuse(f"{name} contains a character that is not valid in UTF-8 text", f"Pass another {name}.")


def _is_odd(text: str, *, as_variable: bool) -> bool:
    """Tell whether a text cannot be sent to a server; or, `as_variable`, cannot be in the environment.

    A variable may contain arbitrary bytes, but no NUL.
    """
    try:
        text.encode(errors="surrogateescape" if as_variable else "strict")
    except UnicodeEncodeError:
        return True
    return "\0" in text


def _name(**given: object) -> str:
    """Return the file name in the given parameter. Raises TypeError."""
    ((parameter, value),) = given.items()
    name = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(name, str):
        raise TypeError(f"{parameter} must be str or os.PathLike[str], not {type(value).__name__}")
    if "\0" in name:
        _refuse(f"{parameter} contains a NUL character, which no file name can", f"Pass another {parameter}.")
    return name


def _refuse(message: str, remedy: str) -> NoReturn:
    raise _with_notes(errors.ConfigurationError(message, remedy=remedy))


def _folder(directory: str | os.PathLike[str]) -> str:
    """Return the absolute path of the migrations. Raises TypeError and ConfigurationError."""
    name = _name(directory=directory)
    if not name:
        _refuse("directory is empty", 'Pass the migrations directory; "." is the current one.')
    if "://" in name or (redaction.secrets_of(name) and not os.path.isdir(name)):
        _refuse(
            "directory is a database address",
            "Pass the address as the first argument of migrate and status, or as url=... to check.",
        )
    if not os.path.isdir(name):
        _refuse(
            f"Directory {os.path.abspath(name)!r} does not exist", "Pass the directory that contains the migrations."
        )
    return os.path.abspath(name)


def _settings(
    url: str | None,
    directory: str | os.PathLike[str],
    variables: Mapping[str, str] | None,
    given: Mapping[str, str | None],
) -> tuple[Settings, frozenset[str]]:
    """Return the settings that the program would derive from the same values, and the secrets in them.

    `given`: the values of the parameters, by the names of the variables. Raises ConfigurationError.
    """
    from entrypoint.settings import Reader, read_secrets, settings_of

    if url is not None and not url.strip():
        _refuse("url is empty", "Pass the database's address, such as postgresql://user:password@host:5432/database.")
    folder = _folder(directory)
    _must_be((_collections_abc.Mapping, _NONE), variables=variables)
    values = dict(variables or {})
    _must_be((str,), **{f"variables[{name!r}]": value for name, value in values.items()})
    allowed = {name: value for name, value in values.items() if name in _VARIABLES}
    reader = Reader(allowed | {name: value for name, value in given.items() if value is not None})
    for name in sorted(values.keys() - _VARIABLES):
        reader.blame(f"`variables` contains {name!r}; it accepts only: {', '.join(sorted(_VARIABLES))}")
    settings = settings_of(reader, auto_migrate=True)
    try:
        reader.raise_faults()
    except EntrypointError as error:
        raise _with_notes(error) from None
    return settings._replace(
        address=Address(url or "", "url", password_command=settings.address.password_command),
        migrations_dir=folder,
    ), read_secrets({**_of_libpq(), **values, "DATABASE_URL": url or ""})


def _of_libpq() -> dict[str, str]:
    """Return the variables that libpq reads itself, to find the secrets in them and in its password file."""
    return {name: value for name, value in os.environ.items() if name == "HOME" or name.startswith("PG")}


def _milliseconds(name: str, seconds: float | None) -> str | None:
    """Return a time in milliseconds, the unit of the variables. Raises ConfigurationError."""
    if seconds is None:
        return None
    if not _SHORTEST <= seconds < _FOREVER:
        _refuse(f"{name} is {seconds:g} seconds", f"{name} must be at least {_SHORTEST:g}, and less than {_FOREVER:g}.")
    return str(round(seconds * 1000))


def _apart(work: Callable[[], _T], secrets: frozenset[str]) -> tuple[_T, str]:
    """Do `work` in a separate thread and wait; return its result and its run id. Raises EntrypointError.

    An exception that arrives during the wait is raised once the thread has finished what it was doing.
    """
    from contextvars import copy_context
    from functools import partial
    from threading import Thread

    run = _Run(secrets)
    results: list[_T] = []
    try:
        # In a copy of the caller's context, because a filter in its logging may use that.
        perform = partial(copy_context().run, run.perform, lambda: results.append(work()))
        Thread(target=perform, name=LOGGER, daemon=True).start()
        while not run.ended_within(SLICE):
            pass
    except BaseException:
        run.stop.asked = True
        if run.begun:
            run.ended_within(_CLEAN_UP)
        raise
    if run.failure is not None:
        # Without the frames of the thread: they are many, and say nothing about the migration.
        raise run.failure.with_traceback(None)
    return results[0], run.log.run_id


def _in_parameters(text: str) -> str:
    """Return `text` with the names of parameters in place of the program's variables, which the API does not read."""
    import re

    names = "|".join(map(re.escape, sorted(_PARAMETERS, key=len, reverse=True)))
    return re.sub(rf"(?<![\w-])(?:{names})(?![\w-])", lambda found: _PARAMETERS[found[0]], text)


def _with_notes(error: EntrypointError) -> EntrypointError:
    """Return the `error` with its report and remedy as notes, so that they are shown even if nobody catches it."""
    error.remedy = _in_parameters(error.remedy)
    for text in (error.report, error.remedy and f"Fix: {error.remedy}"):
        if text:
            error.add_note(text)
    error.__cause__, error.__suppress_context__ = None, True
    return error


class _Run:
    """One call's work, in its own thread, with its own log, secrets and stop signal."""

    def __init__(self, secrets: frozenset[str]) -> None:
        from threading import Event

        self.log = logs.Log(self._pass_to_logging)
        self.log.run_id = os.urandom(8).hex()
        self.stop = signals.StopRequest()
        self._ended = Event()
        self.begun = False
        self.failure: BaseException | None = None
        self._secrets = redaction.Secrets()
        self._secrets.know(secrets)

    def perform(self, work: Callable[[], object]) -> None:
        """Do the `work`, in this thread."""
        self.begun = True
        logs.log_to(self.log)
        redaction.search_for(self._secrets)
        signals.heed(self.stop)
        try:
            work()
        except EntrypointError as error:
            error.message = _in_parameters(error.message)
            error.args = (error.message, *error.args[1:])
            self.failure = _with_notes(error)
        except Exception as error:  # noqa: BLE001 - reported as in the program
            from entrypoint.startup import internal_error

            self.failure = _with_notes(internal_error(error))
            self.failure.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - Interrupted, because the caller has asked us to stop
            self.failure = error
        finally:
            self._ended.set()

    def ended_within(self, seconds: float) -> bool:
        """Wait in the caller's thread for the work to end; tell whether it has."""
        return sliced(self._ended.wait, seconds)

    def _pass_to_logging(self, level: int, event: str, message: str, fields: Mapping[str, object]) -> None:
        """Pass an event to `logging`, as the caller has configured it. Never raises, like the program's log."""
        import logging

        logger = logging.getLogger(LOGGER)
        if not logger.isEnabledFor(level):
            return
        extra = {"event": event, "run_id": self.log.run_id, "fields": dict(fields)}
        text = redaction.visible(message)
        with contextlib.suppress(Exception):
            try:
                logger.log(level, text, extra=extra)
            except KeyError:  # The caller's own records have an attribute of such a name.
                logger.log(level, text)
