"""Frozen snapshots: one for each way the page can look, and one in which all texts are hostile."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from entrypoint.migration.ledger.reading import KeyHolder, LockRow
from entrypoint.operations.repeatable_status import Repetition
from entrypoint.operations.status import Line, Status
from entrypoint.operations.waiters import Waiter, Waiters
from entrypoint.service.running import Excerpt
from entrypoint.service.snapshot import Snapshot, Unavailable

NOW = datetime(2026, 11, 22, 21, 45, 3, tzinfo=UTC).timestamp()

# Number and name, when, how long in milliseconds, by which version.
_APPLIED = (
    ("initial_schema", "2026-09-14T08:02:11Z", 412, "1.0.0"),
    ("users_and_sessions", "2026-09-14T08:02:12Z", 96, "1.0.0"),
    ("updated_at_triggers", "2026-09-14T08:02:12Z", 38, "1.0.0"),
    ("networks_and_ip_addresses", "2026-10-05T07:30:45Z", 221, "1.1.0"),
    ("sample_data", "2026-10-05T07:30:47Z", 1_904, "1.1.0"),
    ("attachments_and_licences", "2026-10-05T07:30:47Z", 154, "1.1.0"),
    ("split_names_and_clean_emails", "2026-11-02T06:12:20Z", 48_310, "1.2.0"),
    ("full_text_search", "2026-11-02T06:15:25Z", 185_200, "1.2.0"),
    ("audit_log", "2026-11-02T06:15:26Z", 640, "1.2.0"),
    ("overview_views", "2026-11-16T05:58:02Z", 87, "1.3.0"),
    ("retired_devices", "2026-11-16T05:58:02Z", 73, "1.3.0"),
    ("api_tokens", "2026-11-16T05:58:03Z", 310, "1.3.0"),
)
_PENDING = ("invoices", "invoice_totals", "orders_by_customer")

FREE = LockRow(
    held=False, since=None, seconds=None, holder=None, process_id=None, token=None, migration=None, statement=None,
    statements=None, detail={},
)  # fmt: skip


def line(number: int, name: str, state: str = "applied", **more: object) -> Line:
    """Return one migration; what is not given is unknown."""
    values = {"applied_at": None, "milliseconds": None, "application_version": None, "error": None, **more}
    return Line(number, f"{number:03d}_{name}.sql", state, **values)  # type: ignore[arg-type]


APPLIED = tuple(
    line(number, name, applied_at=at, milliseconds=took, application_version=version)
    for number, (name, at, took, version) in enumerate(_APPLIED, start=1)
)
PENDING = tuple(line(number, name, "pending") for number, name in enumerate(_PENDING, start=13))
# In a run that has reached the second of these.
BEGUN = (
    *APPLIED,
    PENDING[0]._replace(
        state="applied", applied_at="2026-11-22T21:44:21Z", milliseconds=1_120, application_version="1.4.0"
    ),
    *PENDING[1:],
)


def status(*lines: Line, lock: LockRow | None = FREE, guarded: bool | None = False) -> Status:
    """Return what `summarise` makes of such a ledger and such files, as far as the page uses it."""
    applied = [one for one in lines if one.state in {"applied", "changed", "missing", "ahead"}]
    waiting = [one for one in lines if one.state in {"pending", "running", "failed"}]
    failed = any(one.state == "failed" for one in lines)
    return Status(
        name="error" if failed else "pending" if waiting else "up_to_date",
        current=max((one.number for one in applied), default=0),
        latest=max((one.number for one in lines if one.state not in {"missing", "ahead"}), default=0),
        applied=len(applied),
        pending=len(waiting),
        lines=tuple(sorted(lines)),
        last=max(applied, key=lambda one: (one.applied_at or "", one.number), default=None),
        lock=lock,
        guarded=guarded,
    )


def snapshot(found: Status | None, failure: Unavailable | None = None, *, taken: float = NOW) -> Snapshot:
    """Return a snapshot of the database `shop`."""
    return Snapshot("shop", taken, found, failure, where="shop on db:5432 as shop_owner, schema public")


UP_TO_DATE = snapshot(status(*APPLIED))
WAITING = snapshot(status(*APPLIED, *PENDING))
_MIGRATING = snapshot(
    status(
        *BEGUN,
        lock=FREE._replace(
            held=True,
            since="2026-11-22T21:44:20Z",
            seconds=43.2,
            holder="shop-7d9c8b6f5-x2lqp",
            process_id=7,
            token="f00d.1",
            migration="014_invoice_totals.sql",
            statement=2,
            statements=3,
            detail={
                "seconds": 31,
                "command": "CREATE INDEX",
                "relation": "invoices",
                "phase": "building index: scanning table",
                "percent": 62,
            },
        ),
        guarded=True,
    )
)
MIGRATING = replace(
    _MIGRATING,
    statement=Excerpt(9, "CREATE INDEX invoices_by_customer ON invoices (customer_id, issued_on DESC)", or_later=False),
    waiting=Waiters(
        known=True,
        starts=(Waiter("10.42.0.17", "2026-11-22T21:44:22Z"), Waiter("10.42.1.9", "2026-11-22T21:44:23Z")),
    ),
)
# PostgreSQL reports no progress for an UPDATE, and we may not see all sessions.
UNMEASURED = replace(
    snapshot(
        status(
            *BEGUN,
            lock=_MIGRATING.status.lock._replace(  # type: ignore[union-attr]
                statement=1, statements=1, detail={"seconds": 12}
            ),
            guarded=True,
        )
    ),
    statement=Excerpt(1, "UPDATE invoices SET total = lines.total", or_later=False),
    waiting=Waiters(known=False, starts=()),
)
BLOCKED = snapshot(
    status(
        *BEGUN,
        lock=MIGRATING.status.lock._replace(  # type: ignore[union-attr]
            statement=1, detail={"seconds": 4, "blocked_by": "process 4711 (report, idle in transaction for 12 min)"}
        ),
        guarded=True,
    )
)
FAILED = snapshot(
    status(
        *APPLIED[:3],
        APPLIED[3]._replace(state="changed"),
        *APPLIED[4:],
        line(
            13,
            "invoices",
            "failed",
            applied_at="2026-11-22T21:40:51Z",
            milliseconds=17,
            application_version="1.4.0-rc.2+build.20261122.2140.g1f4c9a7e",
            error='013_invoices.sql:7: ERROR: 42P01: relation "customer" does not exist\n'
            "    customer_id bigint NOT NULL REFERENCES customer (id),\n"
            "                                           ^\n"
            "Statement 2 of 3. Nothing of this file has taken effect.",
        ),
        *PENDING[1:],
    )
)  # fmt: skip
# Another session holds the lock's key, and a repeatable file has failed.
STRANGER = snapshot(
    status(*APPLIED, *PENDING)._replace(
        name="error",
        strangers=(KeyHolder(4711, "psql", "ann", guards=True, makes=False, exclusive=False),),
        repeatables=(
            Repetition("open_invoices", "failed", None, None, "2026-11-22T21:40:51Z", "column i.due does not exist"),
            Repetition("overview", "applied", "2026-11-16T05:58:02Z", "1.3.0+build.20261116.0557.gb2d91c03"),
        ),
    )
)
AWAY = snapshot(
    None,
    Unavailable(
        "database.unavailable",
        "Cannot connect to db:5432 (shop): connection refused",
        "Check that PostgreSQL is running and that DATABASE_URL names the right host and port.",
        reachable=False,
    ),
    taken=NOW + 42,
)
BAD_FILES = snapshot(
    None,
    Unavailable(
        "files.invalid",
        "2 files have bad names",
        "Rename them: NNN_description.sql, in lower case. `entrypoint check` lists every error.",
        reachable=True,
    ),
)
LEFT_BEHIND = snapshot(status(*BEGUN, lock=MIGRATING.status.lock, guarded=False))  # type: ignore[union-attr]
EMPTY = snapshot(status())
# As many digits as a number may have.
LONG_NUMBERS = snapshot(
    status(
        *APPLIED[:3],
        line(
            20261127101500, "stamped", applied_at="2026-11-27T10:20:00Z", milliseconds=12, application_version="1.4.0"
        ),
        line(
            999999999999999998, "nines", applied_at="2026-11-27T10:20:01Z", milliseconds=7, application_version="1.4.0"
        ),
        line(999999999999999999, "highest", "failed", error="division by zero"),
    )
)

# What the ledger's text columns may contain. Each would do harm if treated as more than text.
RIGHT_TO_LEFT = "\u202e"
ATTACKS = (
    "<script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"><svg onload=document.title='owned'>",
    "' autofocus onfocus='document.title=\"owned\"",
    "{{ 7 * 7 }}{% include 'login.html' %}",
    "</title></textarea></style><base href=//elsewhere.example>",
    "&lt;b&gt; &amp; &#60;",
    f"invoice{RIGHT_TO_LEFT}lqs.exe",
    "bell\a null\0 escape\x1b[31m line\u2028separator tag\U000e0041",
    "javascript:document.title='owned'",
    "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324" * 20,
    "long" * 5_000,
    "no-break " * 300,
)
HOSTILE = replace(
    snapshot(
        status(
            *(
                line(number, "x", applied_at="2026-11-02T06:12:20Z", milliseconds=9, application_version=text)._replace(
                    filename=text
                )
                for number, text in enumerate(ATTACKS, start=1)
            ),
            *(
                line(number, "x", "failed", error=text)._replace(filename=text)
                for number, text in enumerate(ATTACKS, start=101)
            ),
            *(line(number, "x", "pending")._replace(filename=text) for number, text in enumerate(ATTACKS, start=201)),
            lock=FREE._replace(
                held=True,
                since="infinity",
                seconds=1e12,
                holder=" ".join(ATTACKS),
                process_id=-1,
                token="t.1",
                migration=ATTACKS[0],
                statement=2,
                statements=9,
                detail={
                    "seconds": 4,
                    "command": ATTACKS[1],
                    "relation": ATTACKS[2],
                    "phase": ATTACKS[3],
                    "percent": 50,
                    "blocked_by": " ".join(ATTACKS),
                    "retry": ATTACKS[0],
                },
            ),
            guarded=True,
        )
    ),
    where=" ".join(ATTACKS),
    statement=Excerpt(1, ATTACKS[1], or_later=True),
    waiting=Waiters(known=True, starts=tuple(Waiter(attack, "infinity") for attack in ATTACKS)),
)

ALL = {
    "up-to-date": UP_TO_DATE,
    "pending": WAITING,
    "migrating": MIGRATING,
    "unmeasured": UNMEASURED,
    "blocked": BLOCKED,
    "failed": FAILED,
    "database-away": AWAY,
    "bad-files": BAD_FILES,
    "left-behind": LEFT_BEHIND,
    "stranger": STRANGER,
    "empty": EMPTY,
    "long-numbers": LONG_NUMBERS,
    "hostile": HOSTILE,
}
