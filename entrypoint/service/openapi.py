"""The service's description, as it is served: what can be asked, and what comes back. A constant.

Written by hand, because it is the contract: tests hold the service to it (tests/service/test_openapi.py).
"""

from __future__ import annotations

from entrypoint import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_JSON = "application/json"
_TIME = {"type": "string", "format": "date-time", "description": "In UTC, with Z."}


def describe() -> dict[str, object]:
    """Return the description, in OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pg-entrypoint: the status service",
            "version": __version__,
            "description": "Which migrations a database has, for programs, dashboards and people. See docs/service.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": _PATHS,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "One of the tokens in STATUS_TOKEN or STATUS_TOKEN_FILE. Not asked for if there are "
                    "none, which is allowed on a loopback address only.",
                }
            },
            "schemas": _SCHEMAS,
            "responses": {
                "Unauthorized": {
                    **_json("#/components/schemas/Error", "There is no token in the request."),
                    "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
                },
                "Forbidden": _json("#/components/schemas/Error", "The token is none of the valid ones."),
                "Stopping": _json("#/components/schemas/Error", "The service ends before there is an answer."),
                "Unavailable": _json(
                    "#/components/schemas/Failure",
                    "There is no answer: the database cannot be reached, or the migration files cannot be used.",
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
# Of up to 18 digits. Many programs read all numbers as floating-point, which keeps 15.
_VERSION = {**_COUNT, "format": "int64"}
_TEXT = {"type": "string"}

_SCHEMAS: dict[str, object] = {
    "Error": _object({"success": {"const": False}, "error": _TEXT}),
    "Failure": _object({"success": {"const": False}, "error": _TEXT, "remedy": _TEXT, "takenAt": _TIME}),
    "StatusAnswer": _object({"success": {"const": True}, "data": {"$ref": "#/components/schemas/Status"}}),
    "Status": _object(
        {
            "currentVersion": {**_VERSION, "description": "The highest migration that is applied, 0 if none is."},
            "latestVersion": {**_VERSION, "description": "The highest number among the files."},
            "appliedMigrations": _COUNT,
            "pendingMigrations": {**_COUNT, "description": "Failed ones included."},
            "status": {"enum": ["up_to_date", "pending", "error"]},
            "lastMigration": _nullable(_object({"number": _VERSION, "filename": _TEXT, "appliedAt": _nullable(_TIME)})),
            "lock": _nullable({"$ref": "#/components/schemas/Lock"}),
            "strangers": {
                "type": "array",
                "items": _object({"pid": _COUNT, "user": _TEXT, "application": _TEXT}),
                "description": "Other sessions that hold the migration lock: nobody can migrate until they let go.",
            },
            "waiting": {
                **_nullable({"type": "array", "items": _object({"address": _nullable(_TEXT), "since": _TIME})}),
                "description": "Starts that wait for the lock: the client's address, null for a local socket, and when "
                "it connected. null while nobody holds the lock, and where this role may not see other sessions.",
            },
            "untrusted": {
                **_nullable(_TEXT),
                "description": "Why a start would not rely on this migration history; null if it would.",
            },
            "refused": {
                **_nullable(_TEXT),
                "description": "Why a start would not run what is pending (MIGRATION_OUT_OF_ORDER=refuse); else null.",
            },
            "outstandingMigrations": {
                **_COUNT,
                "description": "Files with `phase = after` that are not applied, failed ones included; not pending.",
            },
            "outstandingSince": {
                **_nullable(_TIME),
                "description": "When the last migration below the first of those was applied; null without any.",
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
                "description": "Host and port as in db:5432, or a socket's directory; null if not known.",
            },
            "database": {**_TEXT, "description": "Its name."},
            "takenAt": _TIME,
        },
        # Only with MIGRATION_COMMAND.
        optional=("command",),
    ),
    "Command": _object(
        {
            "command": {**_TEXT, "description": "Its command line, without passwords of addresses."},
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
                        "output": {**_TEXT, "description": "The last lines that it printed."},
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
                "description": "How far a file has come that runs in batches and is not through: key, cursor, last, "
                "rows, batches, size, pass, passes, percent, seconds.",
            },
        },
        optional=("batches",),
    ),
    "Repeatable": _object(
        {
            "name": _TEXT,
            "state": {"enum": ["applied", "pending", "failed", "superseded", "missing", "ahead"]},
            "appliedAt": {**_nullable(_TIME), "description": "When the text was applied that is in force."},
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
                "description": "Whether its holder lives; null for one of the earlier system, which nobody can ask, "
                "and on a standby, from where it cannot be seen.",
            },
            "progress": {
                **_nullable({"type": "object"}),
                "description": "What the holder tells of a long statement: seconds, command, relation, phase, percent, "
                "blockedBy, retry; of a file that runs in batches also rows, batches, secondsLeft.",
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
            "summary": "What is applied and what is pending",
            "responses": _guarded(
                {
                    "200": _json("#/components/schemas/StatusAnswer", "The status, at most about a second old."),
                    "500": {"$ref": "#/components/responses/Unavailable"},
                    "503": {"$ref": "#/components/responses/Stopping"},
                }
            ),
        }
    },
    "/api/admin/backup": {
        "get": {
            "operationId": "getBackup",
            "summary": "How the backup goes that was started last",
            "responses": _guarded({"200": _json("#/components/schemas/BackupAnswer", "How it goes, or went.")}),
        },
        "post": {
            "operationId": "startBackup",
            "summary": "Start a backup",
            "responses": _guarded(
                {
                    "202": {
                        **_json("#/components/schemas/BackupAnswer", "It has been started."),
                        "headers": {
                            "Location": {"description": "Where to ask how it goes.", "schema": {"type": "string"}}
                        },
                    },
                    "409": _json("#/components/schemas/BackupConflict", "One is running."),
                    "501": _json("#/components/schemas/Error", "The service has no directory for backups."),
                }
            ),
        },
    },
    "/badge.svg": {
        "get": {
            "operationId": "getBadge",
            "summary": "The version as an image: green up to date, yellow pending, red failed or unknown",
            "description": "Needs no token if STATUS_PUBLIC_BADGE is true.",
            "responses": _guarded(
                {
                    "200": {
                        "description": "An image, whatever the status is.",
                        "content": {"image/svg+xml": {"schema": {"type": "string"}}},
                        "headers": {"ETag": {"schema": {"type": "string"}}},
                    },
                    "304": {"description": "It is still the one with the ETag in If-None-Match."},
                    "503": {"$ref": "#/components/responses/Stopping"},
                }
            ),
        }
    },
    "/metrics": {
        "get": {
            "operationId": "getMetrics",
            "summary": "The same for Prometheus",
            "responses": _guarded(
                {
                    "200": {
                        "description": "Metrics; pg_entrypoint_up is 0 where there is no answer.",
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
            "summary": "Whether the service answers at all",
            "security": [],
            "responses": {"200": _json("#/components/schemas/Health", "It does.")},
        }
    },
    "/readyz": {
        "get": {
            "operationId": "getReadiness",
            "summary": "Whether the database answers",
            "security": [],
            "responses": {
                "200": _json("#/components/schemas/Health", "It does."),
                "503": _json("#/components/schemas/Health", "It does not."),
            },
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "getDescription",
            "summary": "This description",
            "security": [],
            "responses": {"200": {"description": "OpenAPI 3.1.", "content": {_JSON: {"schema": {"type": "object"}}}}},
        }
    },
}
