"""The service's OpenAPI description. A constant.

It is written by hand because it is the contract. Tests check that the service keeps it (tests/service/test_openapi.py).
"""

from __future__ import annotations

from entrypoint import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_JSON = "application/json"
_TIME = {"type": "string", "format": "date-time", "description": "UTC, ending in Z."}


def describe() -> dict[str, object]:
    """Return the description, in OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pg-entrypoint status service",
            "version": __version__,
            "description": "The migrations of one database, for programs, dashboards and people. See docs/service.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": _PATHS,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "One of the tokens in STATUS_TOKEN or STATUS_TOKEN_FILE. If neither is set, none "
                    "is needed, and the service listens on a loopback address only.",
                }
            },
            "schemas": _SCHEMAS,
            "responses": {
                "Unauthorized": {
                    **_json("#/components/schemas/Error", "The request has no token."),
                    "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
                },
                "Forbidden": _json("#/components/schemas/Error", "The token is not valid."),
                "Stopping": _json("#/components/schemas/Error", "The service is stopping."),
                "Unavailable": _json(
                    "#/components/schemas/Failure",
                    "The status is unknown: the database cannot be reached, or the migration files have errors.",
                ),
            },
        },
    }


def _json(schema: str, description: str) -> dict[str, object]:
    return {"description": description, "content": {_JSON: {"schema": {"$ref": schema}}}}


def _guarded(more: Mapping[str, object]) -> dict[str, object]:
    """Return the responses of an operation that needs a token."""
    return {
        **more,
        "401": {"$ref": "#/components/responses/Unauthorized"},
        "403": {"$ref": "#/components/responses/Forbidden"},
    }


def _nullable(schema: Mapping[str, object]) -> dict[str, object]:
    return {"anyOf": [dict(schema), {"type": "null"}]}


def _object(properties: Mapping[str, object], *, optional: tuple[str, ...] = ()) -> dict[str, object]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


_COUNT = {"type": "integer", "minimum": 0}
# Up to 18 digits. Many programs read all numbers as floating-point, which is exact up to 15.
_VERSION = {**_COUNT, "format": "int64"}
_TEXT = {"type": "string"}

_SCHEMAS: dict[str, object] = {
    "Error": _object({"success": {"const": False}, "error": _TEXT}),
    "Failure": _object({"success": {"const": False}, "error": _TEXT, "remedy": _TEXT, "takenAt": _TIME}),
    "StatusAnswer": _object({"success": {"const": True}, "data": {"$ref": "#/components/schemas/Status"}}),
    "Status": _object(
        {
            "currentVersion": {**_VERSION, "description": "The highest applied migration; 0 if there is none."},
            "latestVersion": {**_VERSION, "description": "The highest number of a migration file."},
            "appliedMigrations": _COUNT,
            "pendingMigrations": {**_COUNT, "description": "Includes failed migrations."},
            "status": {"enum": ["up_to_date", "pending", "error"]},
            "lastMigration": _nullable(_object({"number": _VERSION, "filename": _TEXT, "appliedAt": _nullable(_TIME)})),
            "lock": _nullable({"$ref": "#/components/schemas/Lock"}),
            "strangers": {
                "type": "array",
                "items": _object({"pid": _COUNT, "user": _TEXT, "application": _TEXT}),
                "description": "Other programs' sessions that hold the migration lock: no start can migrate meanwhile.",
            },
            "waiting": {
                **_nullable({"type": "array", "items": _object({"address": _nullable(_TEXT), "since": _TIME})}),
                "description": "Starts that are waiting for the lock: the client's address (null for a local socket) "
                "and when it connected. null while the lock is free, or if this role may not see other sessions.",
            },
            "untrusted": {
                **_nullable(_TEXT),
                "description": "Why a start would refuse to use this migration history; null if it would use it.",
            },
            "refused": {
                **_nullable(_TEXT),
                "description": "Why a start would refuse what is pending (MIGRATION_OUT_OF_ORDER=refuse), or null.",
            },
            "outstandingMigrations": {
                **_COUNT,
                "description": "Files with `phase = after` that are not applied, including failed ones; not pending.",
            },
            "outstandingSince": {
                **_nullable(_TIME),
                "description": "When the last migration before the first outstanding one was applied, or null.",
            },
            "belowFloor": {
                **_nullable(_TEXT),
                "description": "Why these files are too old for the schema to start; null if they are not.",
            },
            "command": {"$ref": "#/components/schemas/Command"},
            "repeatables": {"type": "array", "items": {"$ref": "#/components/schemas/Repeatable"}},
            "migrations": {"type": "array", "items": {"$ref": "#/components/schemas/Migration"}},
            "server": {
                **_nullable(_TEXT),
                "description": "Host and port, as in db:5432, or a socket's directory; null if unknown.",
            },
            "database": {**_TEXT, "description": "The name of the database."},
            "takenAt": _TIME,
        },
        # Only with MIGRATION_COMMAND.
        optional=("command",),
    ),
    "Command": _object(
        {
            "command": {**_TEXT, "description": "The command line, without the passwords of database addresses."},
            "state": {"enum": ["up_to_date", "ahead", "pending", "failed", "running", "interrupted"]},
            "why": _TEXT,
            "lastRun": _nullable(
                _object(
                    {
                        "number": _VERSION,
                        "status": {"enum": ["running", "completed", "failed", "interrupted"]},
                        "startedAt": _nullable(_TIME),
                        "finishedAt": _nullable(_TIME),
                        "exitCode": _nullable(_COUNT),
                        "applicationVersion": _nullable(_TEXT),
                        "holder": _nullable(_TEXT),
                        "output": {**_TEXT, "description": "The last lines of its output."},
                    }
                )
            ),
        }
    ),
    "Migration": _object(
        {
            "number": _VERSION,
            "filename": _TEXT,
            "state": {"enum": ["applied", "pending", "after", "failed", "running", "changed", "missing", "ahead"]},
            "appliedAt": _nullable(_TIME),
            "executionTimeMs": _nullable({"type": "integer"}),
            "applicationVersion": _nullable(_TEXT),
            "error": _nullable(_TEXT),
            "batches": {
                "type": "object",
                "description": "The progress of an unfinished file that runs in batches: key, cursor, last, rows, "
                "batches, size, pass, passes, percent, seconds.",
            },
        },
        optional=("batches",),
    ),
    "Repeatable": _object(
        {
            "name": _TEXT,
            "state": {"enum": ["applied", "pending", "failed", "superseded", "missing", "ahead"]},
            "appliedAt": {**_nullable(_TIME), "description": "When the version now in force was applied."},
            "applicationVersion": _nullable(_TEXT),
            "failedAt": _nullable(_TIME),
            "error": _nullable(_TEXT),
        }
    ),
    "Lock": _object(
        {
            "held": {"type": "boolean"},
            "holder": _nullable(_TEXT),
            "processId": _nullable({"type": "integer"}),
            "since": _nullable(_TIME),
            "migration": _nullable(_TEXT),
            "statement": _nullable({"type": "integer"}),
            "statements": _nullable({"type": "integer"}),
            "heldForSeconds": _nullable({"type": "number"}),
            "alive": {
                **_nullable({"type": "boolean"}),
                "description": "Whether the holder is alive; null for a replica of the earlier migration system and "
                "on a standby, where there is no way to tell.",
            },
            "progress": {
                **_nullable({"type": "object"}),
                "description": "What the holder reports about a long statement: seconds, command, relation, phase, "
                "percent, blockedBy, blocker, retry; for a file that runs in batches also rows, batches, secondsLeft.",
            },
        }
    ),
    "BackupAnswer": _object({"success": {"const": True}, "data": {"$ref": "#/components/schemas/Backup"}}),
    "BackupConflict": _object(
        {"success": {"const": False}, "error": _TEXT, "data": {"$ref": "#/components/schemas/Backup"}}
    ),
    "Backup": _object(
        {
            "status": {"enum": ["none", "running", "succeeded", "failed"]},
            "startedAt": _nullable(_TIME),
            "endedAt": _nullable(_TIME),
            "durationMs": _nullable(_COUNT),
            "file": _nullable(_TEXT),
            "bytes": _nullable(_COUNT),
            "sha256": _nullable(_TEXT),
            "error": _nullable(_TEXT),
            "remedy": _nullable(_TEXT),
        }
    ),
    "Health": _object({"status": {"enum": ["alive", "ready", "not ready"]}}),
}

_PATHS: dict[str, object] = {
    "/api/admin/migrations/status": {
        "get": {
            "operationId": "getStatus",
            "summary": "Get the migration status",
            "responses": _guarded(
                {
                    "200": _json("#/components/schemas/StatusAnswer", "The status, about one second old at most."),
                    "500": {"$ref": "#/components/responses/Unavailable"},
                    "503": {"$ref": "#/components/responses/Stopping"},
                }
            ),
        }
    },
    "/api/admin/backup": {
        "get": {
            "operationId": "getBackup",
            "summary": "Get the state of the latest backup",
            "responses": _guarded(
                {"200": _json("#/components/schemas/BackupAnswer", "The state of the latest backup.")}
            ),
        },
        "post": {
            "operationId": "startBackup",
            "summary": "Start a backup",
            "responses": _guarded(
                {
                    "202": {
                        **_json("#/components/schemas/BackupAnswer", "The backup has been started."),
                        "headers": {
                            "Location": {"description": "Where to get its state.", "schema": {"type": "string"}}
                        },
                    },
                    "409": _json("#/components/schemas/BackupConflict", "A backup is already running."),
                    "501": _json("#/components/schemas/Error", "No backup directory is configured."),
                }
            ),
        },
    },
    "/badge.svg": {
        "get": {
            "operationId": "getBadge",
            "summary": "Get a badge with the version: green up to date, yellow pending, red failed or unknown",
            "description": "No token is needed if STATUS_PUBLIC_BADGE is true.",
            "responses": _guarded(
                {
                    "200": {
                        "description": "The badge. There is one for every status, even if it is unknown.",
                        "content": {"image/svg+xml": {"schema": {"type": "string"}}},
                        "headers": {"ETag": {"schema": {"type": "string"}}},
                    },
                    "304": {"description": "The badge has not changed since the ETag in If-None-Match."},
                    "503": {"$ref": "#/components/responses/Stopping"},
                }
            ),
        }
    },
    "/metrics": {
        "get": {
            "operationId": "getMetrics",
            "summary": "Get metrics for Prometheus",
            "responses": _guarded(
                {
                    "200": {
                        "description": "Metrics. If the status is unknown, pg_entrypoint_up is 0.",
                        "content": {
                            "text/plain": {"schema": {"type": "string"}},
                            "application/openmetrics-text": {"schema": {"type": "string"}},
                        },
                    },
                    "503": {"$ref": "#/components/responses/Stopping"},
                }
            ),
        }
    },
    "/livez": {
        "get": {
            "operationId": "getLiveness",
            "summary": "Check that the service is running",
            "security": [],
            "responses": {"200": _json("#/components/schemas/Health", "The service is running.")},
        }
    },
    "/readyz": {
        "get": {
            "operationId": "getReadiness",
            "summary": "Check that the database answers",
            "security": [],
            "responses": {
                "200": _json("#/components/schemas/Health", "The database answers."),
                "503": _json("#/components/schemas/Health", "The database does not answer."),
            },
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "getDescription",
            "summary": "Get this description",
            "security": [],
            "responses": {"200": {"description": "OpenAPI 3.1.", "content": {_JSON: {"schema": {"type": "object"}}}}},
        }
    },
}
