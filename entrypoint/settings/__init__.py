"""Read the environment once, into immutable values. The error names every invalid value, and what would be valid.

The variables and their defaults are documented and must not change (docs/configuration.md).
"""

from __future__ import annotations

from os import stat
from stat import S_ISDIR, S_ISREG

from entrypoint.errors import ConfigurationError
from entrypoint.records import (
    ATTEMPTS,
    DEFAULT_LIMIT_MB,
    LONGEST_NAME,
    MOST_MILLISECONDS,
    TOOLS,
    Address,
    Adopt,
    ApplyPolicy,
    ConnectPolicy,
    LockPolicy,
    NamedTuple,
)
from entrypoint.redaction import foreign, lacks_scheme, secrets_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from entrypoint.command import Command

_LAST_PORT = 2**16 - 1
DEFAULT_LOCK_TIMEOUT_MS = 30_000
# All variables that may be quoted in messages, or contain an address.
_VARIABLES = (
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "MIGRATION_DATABASE_URL",
    "MIGRATION_DATABASE_URL_FILE",
    "DATABASE_PASSWORD_COMMAND",
    "AUTO_MIGRATE",
    "MIGRATION_TIMEOUT_MS",
    "MIGRATION_LOCK_TIMEOUT_MS",
    "MIGRATION_LOCK_STALE_MS",
    "MIGRATION_DDL_LOCK_TIMEOUT_MS",
    "MIGRATION_ON_FAILURE",
    "MIGRATION_OUT_OF_ORDER",
    "MIGRATIONS_DIR",
    "MIGRATION_FILE_LIMIT_MB",
    "MIGRATION_SCHEMA",
    "MIGRATION_ROLE",
    "MIGRATION_ADOPT",
    "MIGRATION_COMMAND",
    "MIGRATION_COMMAND_INPUTS",
    "MIGRATION_COMMAND_STATE",
    "DB_CONNECT_ATTEMPTS",
    "DB_CONNECT_BACKOFF_MS",
    "DB_CONNECT_TIMEOUT_MS",
    "MIGRATION_BACKUP_DIR",
    "MIGRATION_PROBE_PORT",
    "MIGRATION_FAILURE_COMMAND",
    "MIGRATION_METRICS_FILE",
    "APP_VERSION",
    "npm_package_version",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "LOG_FIELDS",
    "TRACEPARENT",
    "STATUS_HOST",
    "STATUS_PORT",
    "STATUS_TOKEN_FILE",
    "STATUS_PUBLIC_BADGE",
)
_COMMANDS = ("MIGRATION_COMMAND", "DATABASE_PASSWORD_COMMAND", "MIGRATION_FAILURE_COMMAND")
_YES = ("true", "1", "yes", "on")
_NO = ("false", "0", "no", "off")


class Settings(NamedTuple):
    """All settings."""

    auto_migrate: bool
    exit_on_failure: bool
    refuse_out_of_order: bool
    """Whether a pending migration below the newest applied one ends a run."""
    address: Address
    migrations_dir: str
    """Empty if another tool has all the migrations."""
    file_limit: int
    """The largest allowed size of a migration file, in bytes."""
    schema: str | None
    role: str | None
    app_version: str | None
    backup_dir: str | None
    probe_port: int | None
    adopt: Adopt | None
    """The tool whose history to take over, if anything is pending."""
    command: Command | None
    """Another migration tool, which runs after our files."""
    connect: ConnectPolicy
    lock: LockPolicy
    apply: ApplyPolicy


class Reports(NamedTuple):
    """Where to report the end of a start, besides the log.

    Not part of Settings: invalid settings are a failure that has to be reported, too.
    """

    failure_command: tuple[str, ...]
    metrics_file: str | None


class LogSettings(NamedTuple):
    """How to log. Read before everything else, so that errors in the rest can be logged."""

    style: str
    level: str
    fields: Mapping[str, object]
    """Additional fields for every line."""


def read_settings(environ: Mapping[str, str], *, asked_for: bool = False) -> Settings:
    """Read the environment.

    `asked_for`: whether somebody typed a command; then `AUTO_MIGRATE`, which is for automatic starts, does not count.
    With `AUTO_MIGRATE=false` nothing else is read, because the program only starts the application. Raises
    ConfigurationError, with every error in its field `faults`.
    """
    reader = Reader(environ)
    auto_migrate = asked_for or reader.yes_or_no("AUTO_MIGRATE", default=True)
    if not auto_migrate and not reader.faults:
        reader = Reader({})
    settings = settings_of(reader, auto_migrate=auto_migrate)
    if auto_migrate:
        reader.faults += read_log_settings(environ, terminal=False)[1]
    reader.raise_faults()
    return settings


def settings_of(reader: Reader, *, auto_migrate: bool) -> Settings:
    """Return all settings. The reader collects the errors in them, and can raise them."""
    command = reader.command("MIGRATION_COMMAND")
    reader.reports()
    return Settings(
        auto_migrate=auto_migrate,
        exit_on_failure=reader.choice("MIGRATION_ON_FAILURE", ("start", "exit")) == "exit",
        refuse_out_of_order=reader.choice("MIGRATION_OUT_OF_ORDER", ("warn", "refuse")) == "refuse",
        address=reader.address("MIGRATION_DATABASE_URL", "DATABASE_URL"),
        migrations_dir=reader.path("MIGRATIONS_DIR") or ("migrations" if command is None else ""),
        file_limit=reader.number("MIGRATION_FILE_LIMIT_MB", DEFAULT_LIMIT_MB, unit="megabytes", example="1024") << 20,
        schema=reader.name("MIGRATION_SCHEMA"),
        role=reader.name("MIGRATION_ROLE"),
        app_version=reader.version("APP_VERSION") or reader.version("npm_package_version"),
        backup_dir=reader.path("MIGRATION_BACKUP_DIR"),
        probe_port=reader.port("MIGRATION_PROBE_PORT"),
        adopt=reader.adopt("MIGRATION_ADOPT"),
        command=command,
        connect=ConnectPolicy(
            attempts=reader.number("DB_CONNECT_ATTEMPTS", ATTEMPTS, unit="attempts", example="5"),
            backoff=reader.seconds("DB_CONNECT_BACKOFF_MS", 1_000),
            timeout=reader.seconds("DB_CONNECT_TIMEOUT_MS", 5_000),
        ),
        lock=LockPolicy(
            timeout=reader.seconds("MIGRATION_LOCK_TIMEOUT_MS", DEFAULT_LOCK_TIMEOUT_MS),
            stale=reader.seconds("MIGRATION_LOCK_STALE_MS", 600_000),
            hard=reader.text("MIGRATION_LOCK_TIMEOUT_MS") is not None,
        ),
        apply=ApplyPolicy(
            timeout=reader.seconds("MIGRATION_TIMEOUT_MS", 300_000),
            ddl_lock_timeout=reader.seconds("MIGRATION_DDL_LOCK_TIMEOUT_MS", 5_000),
        ),
    )


def adopt_from(tool: str, table: str | None) -> Adopt:
    """Return a tool with its table, `[SCHEMA.]TABLE`. Raises ValueError, with a clause that says what is wrong.

    Names may be in double quotes, as in SQL; a name with a dot must be. Without quotes, the last dot separates the two.
    """
    name = tool.strip().lower()
    if name not in TOOLS:
        from entrypoint.migration.adoption.others import what_instead

        raise ValueError(what_instead(name))
    said = (table or "").strip()
    schema, _, relation = said.rpartition(".")
    if '"' in said:
        from entrypoint.migration.adoption.names import split_name

        *_, schema, relation = "", *(split_name(said) or ("",))
    if table is not None and (not relation or said.startswith(".")):
        raise ValueError('write the table as SCHEMA.TABLE, or as "SCHEMA"."TABLE" if a name contains a dot or a quote')
    if max(len(part.encode(errors="surrogateescape")) for part in (schema, relation)) > LONGEST_NAME:
        raise ValueError(f"PostgreSQL names are limited to {LONGEST_NAME} bytes")
    return Adopt(name, schema or None, relation or None)


def exits_on_failure(environ: Mapping[str, str]) -> bool:
    """Tell whether to exit after a failure. For when the settings cannot be read."""
    return environ.get("MIGRATION_ON_FAILURE", "").strip().lower() == "exit"


def read_log_settings(environ: Mapping[str, str], *, terminal: bool) -> tuple[LogSettings, tuple[str, ...]]:
    """Read how to log, and the errors in these variables. Invalid values are replaced by the defaults.

    `terminal`: whether the log goes to a terminal.
    """
    reader = Reader(environ)
    settings = LogSettings(
        style=reader.choice("LOG_FORMAT", ("json", "text"), default="text" if terminal else "json"),
        level=reader.choice("LOG_LEVEL", ("info", "debug", "warning", "error")),
        fields=reader.fields("LOG_FIELDS"),
    )
    return settings, tuple(reader.faults)


def wants_colours(environ: Mapping[str, str], *, terminal: bool) -> bool:
    """Tell whether to use colors. `terminal`: whether the output goes to one. NO_COLOR wins, see no-color.org."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return terminal and not is_dumb(environ)


def is_dumb(environ: Mapping[str, str]) -> bool:
    """Tell whether the terminal can neither show colors nor move the cursor."""
    return environ.get("TERM", "") in ("", "dumb", "unknown")


def read_names(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return the fields for every line of the log that come from the environment. Reading the settings finds errors."""
    reader = Reader(environ)
    names = {
        "app_version": reader.version("APP_VERSION") or reader.version("npm_package_version"),
        "schema": reader.name("MIGRATION_SCHEMA"),
    }
    if environ.get("TRACEPARENT"):
        from entrypoint.settings.log_fields import trace

        names |= trace(environ["TRACEPARENT"])
    return names


def read_secrets(environ: Mapping[str, str], words: Sequence[str] = ()) -> frozenset[str]:
    """Return all texts that must never be shown: from the environment, and from addresses among `words`.

    Unreadable files are skipped: we cannot reveal what is in them.
    """
    found: set[str] = set()
    commands = " ".join(environ.get(name, "") for name in _COMMANDS)
    for word in (*words, *commands.replace("'", " ").replace('"', " ").split()):
        if "://" in word or word.startswith("jdbc:"):
            found |= secrets_of(word)
    for name in environ:
        # Somebody may put the address into another variable of ours or libpq's by mistake.
        if (name in _VARIABLES and environ[name].lstrip()[:1] != "{") or (
            name.startswith("PG") and "PASSWORD" not in name
        ):
            found |= secrets_of(environ[name])
    for name in ("DATABASE_URL", "MIGRATION_DATABASE_URL"):
        if path := environ.get(f"{name}_FILE"):
            try:
                found |= secrets_of(_read_text(path).strip())
            except (OSError, ValueError):
                continue
    found.update(filter(None, (environ.get("PGPASSWORD"), environ.get("PGSSLPASSWORD"))))
    for path in _password_files(environ):
        found.update(_passwords_in(path))
    found.update(environ.get("STATUS_TOKEN", "").split())
    if path := environ.get("STATUS_TOKEN_FILE"):
        try:
            found.update(_read_text(path).split())
        except (OSError, ValueError):
            if not path.strip().startswith(("/", ".")):  # It may be a token in the wrong variable.
                found.update((path.strip(), *path.split()))
    return frozenset(found)


def _password_files(environ: Mapping[str, str]) -> set[str]:
    """Return the paths of the files in which libpq looks for passwords."""
    home = environ.get("HOME")
    paths = {environ.get("PGPASSFILE") or (f"{home}/.pgpass" if home else "")}
    for name in ("DATABASE_URL", "MIGRATION_DATABASE_URL"):
        _, said, rest = environ.get(name, "").partition("passfile=")
        if said:
            paths.add(rest.split("&", 1)[0].split(maxsplit=1)[0].strip("'") if rest.strip() else "")
    return paths - {""}


def _passwords_in(path: str) -> list[str]:
    r"""Return the passwords in a password file: `host:port:database:user:password`, where `\` escapes a `:`."""
    try:
        lines = _read_text(path).splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        fields = line.replace("\\\\", "\0").replace("\\:", "\1").split(":", 4)
        if len(fields) == 5 and not line.startswith("#"):
            found.append(fields[4].replace("\1", ":").replace("\0", "\\"))
    return [password for password in found if password]


class Reader:
    """Reads variables one by one, and collects the errors in them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[str] = []

    def raise_faults(self) -> None:
        """Raise ConfigurationError if there are errors."""
        if self.faults:
            what = self.faults[0] if len(self.faults) == 1 else f"{len(self.faults)} settings are invalid"
            raise ConfigurationError(
                f"Bad configuration: {what}", remedy="Set a valid value and start again.", faults=self.faults
            )

    def text(self, name: str) -> str | None:
        """Return a variable's value; an empty one counts as unset, as it does in Compose files."""
        value = self._environ.get(name, "").strip()
        if not value.isascii() and any("\udc80" <= character <= "\udcff" for character in value):
            # Python represents bytes that are not UTF-8 like this. Do not quote the value: it may be a password.
            self.blame(f"{name} is not valid UTF-8")
            return None
        return value or None

    def path(self, name: str) -> str | None:
        """Return the path of a file or directory. Reports an address that was put there by mistake."""
        value = self.text(name)
        if value is not None and (is_address(value) or (_holds_password(value) and not _exists(value))):
            self.blame(f"{name} is a database address; set it to a path")
            return None
        return value

    def version(self, name: str) -> str | None:
        """Return the application's version for the ledger. Hides an address, as many people can read it."""
        value = self.text(name)
        return "(an address)" if value is not None and (is_address(value) or lacks_scheme(value)) else value

    def blame(self, fault: str) -> None:
        """Record an error."""
        # A variable may be read twice.
        if fault not in self.faults:
            self.faults.append(fault)

    def name(self, name: str) -> str | None:
        """Return the name of something in the database. Reports one that PostgreSQL would silently truncate."""
        value = self.text(name)
        if value is not None and len(value.encode(errors="surrogateescape")) > LONGEST_NAME:
            self.faults.append(f"{name} is {shown(value)}; PostgreSQL names are limited to {LONGEST_NAME} bytes")
        return value

    def adopt(self, name: str) -> Adopt | None:
        """Return a variable's tool, and its table if that has a different name: `TOOL:SCHEMA.TABLE`."""
        value = self.text(name)
        if value is None:
            return None
        tool, _, table = value.partition(":")
        try:
            return adopt_from(tool, table if ":" in value else None)
        except ValueError as error:
            self.faults.append(f"{name} is {shown(value)}; {foreign(str(error))}")
            return None

    def command(self, name: str) -> Command | None:
        """Return the migration tool in a variable, with the settings for it in other variables."""
        parts = (name, f"{name}_INPUTS", f"{name}_STATE")
        found = [part for part in parts if self._environ.get(part) and self.text(part) is not None]
        if name not in found:
            # An empty value switches off the command that an image has set.
            if found and name not in self._environ:
                self.blame(f"{found[0]} is set, but {name} is not; {found[0]} describes what {name} reads and keeps")
            return None
        from entrypoint.command import read

        command, faults = read(self._environ)
        for fault in faults:
            self.blame(fault)
        return command

    def fields(self, name: str) -> Mapping[str, object]:
        """Return the JSON object in a variable. Errors do not quote it, as it may contain anything."""
        value = self.text(name)
        if value is None:
            return {}
        from entrypoint.settings.log_fields import parse

        try:
            return parse(value)
        except ValueError as error:
            self.blame(f"{name} {foreign(str(error))}")
            return {}

    def yes_or_no(self, name: str, *, default: bool) -> bool:
        """Return a switch's value."""
        value = self.text(name)
        if value is None or value.lower() in _YES + _NO:
            return default if value is None else value.lower() in _YES
        self.faults.append(f"{name} is {shown(value)}; it must be true or false")
        return default

    def choice(self, name: str, choices: tuple[str, ...], *, default: str | None = None) -> str:
        """Return one of the `choices`. The default is the first, unless given."""
        value = self.text(name)
        if value is not None and value.lower() in choices:
            return value.lower()
        if value is not None:
            self.faults.append(f"{name} is {shown(value)}; it must be one of: {', '.join(choices)}")
        return default or choices[0]

    def number(self, name: str, default: int, *, unit: str, example: str) -> int:
        """Return a whole number above 0. `unit` (in the plural) and `example` are for the error message."""
        value = self.text(name)
        if value is None:
            return default
        if value.isascii() and value.isdecimal() and len(value) <= 10 and 0 < int(value) <= MOST_MILLISECONDS:
            return int(value)
        self.faults.append(
            f"{name} is {shown(value)}; it must be a whole number of {unit} from 1 to {MOST_MILLISECONDS}, "
            f"like {example}"
        )
        return default

    def port(self, name: str) -> int | None:
        """Return a TCP port."""
        value = self.text(name)
        if value is None:
            return None
        if value.isascii() and value.isdecimal() and len(value) <= 5 and 0 < int(value) <= _LAST_PORT:
            return int(value)
        self.faults.append(f"{name} is {shown(value)}; it must be a port from 1 to {_LAST_PORT}, like 8081")
        return None

    def seconds(self, name: str, default_ms: int) -> float:
        """Return the value of a variable in milliseconds as seconds."""
        return self.number(name, default_ms, unit="milliseconds", example=str(default_ms)) / 1000

    def address(self, *names: str) -> Address:
        """Return the first address that is set, directly or by file, with the command that prints its password."""
        command = self.words("DATABASE_PASSWORD_COMMAND")
        for name in names:
            direct, file = self.text(name), self.text(f"{name}_FILE")
            if file and is_address(file):
                self.blame(f"{name}_FILE is a database address; set it to the path of a file that contains one")
                continue
            if direct and file:
                self.faults.append(f"{name} and {name}_FILE are both set; set only one")
            if direct:
                return Address(direct, name, password_command=command)
            if file:
                return Address(self.from_file(f"{name}_FILE", file), f"{name}_FILE", file, command)
        return Address("", "", password_command=command)

    def reports(self) -> Reports:
        """Return where to report the end of a start."""
        path = self.path("MIGRATION_METRICS_FILE")
        if path is not None and not path.endswith(".prom"):
            self.blame(
                f"MIGRATION_METRICS_FILE is {shown(path)}; the name must end in .prom, or node_exporter ignores it"
            )
            path = None
        return Reports(self.words("MIGRATION_FAILURE_COMMAND"), path)

    def words(self, name: str) -> tuple[str, ...]:
        """Return the words of a command line; empty if it is not set. Errors do not quote it."""
        value = self.text(name)
        if value is None:
            return ()
        from entrypoint.command import split

        try:
            found = split(value)
        except ValueError as error:
            self.blame(f"{name} cannot be split into words: {foreign(str(error))}")
            return ()
        if not (found and found[0]):
            self.blame(f"{name} names no program; set it to a command line")
        return found

    def from_file(self, name: str, path: str, wanted: str = "a database URL") -> str:
        """Return the contents of the file at `path`, the value of the variable `name`; empty after an error.

        `wanted` is for the error message: what the file should contain.
        """
        try:
            content = _read_text(path).strip()
        except OSError as error:
            self.faults.append(f"{name} is {shown(path)}, which cannot be read: {error.strerror}")
        except ValueError:
            self.faults.append(f"{name} is {shown(path)}, which is not valid UTF-8")
        else:
            if content:
                return content
            self.faults.append(f"{name} is {shown(path)}, which is empty; it must contain {wanted}")
        return ""


def is_address(value: str) -> bool:
    """Tell whether a value is a database address, which somebody has put into the wrong variable."""
    return "://" in value or "password=" in value.lower().replace(" ", "")


def shown(value: str) -> str:
    """Return a value for quoting in a message, but not an address: in a badly escaped one, any part may be secret."""
    return "an address" if _holds_password(value) else repr(foreign(value))


def _holds_password(value: str) -> bool:
    """Tell whether a value may be an address with a password, in any notation."""
    return is_address(value) or "@" in value.partition(":")[2]


def _exists(path: str) -> bool:
    from os.path import exists  # `os` has already imported it.

    return exists(path)


def _read_text(path: str) -> str:
    # Refuse files that block, never end, or can be read only once: some are read again for each connection.
    mode = stat(path).st_mode
    if not (S_ISREG(mode) or S_ISDIR(mode)):  # `open` reports directories itself
        raise OSError(0, "it is not a regular file")
    with open(path, encoding="utf-8-sig") as file:
        return file.read()
