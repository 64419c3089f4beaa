"""Fields for every line of the log, from LOG_FIELDS and TRACEPARENT. Imported only if one of them is set."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_EXAMPLE = '{"service": "shop", "team": "checkout"}'
# The fields that the program itself sets in every line (see `logs`).
_OURS = frozenset(
    (
        *("time", "level", "severity", "event", "message", "run_id", "host", "app_version"),
        *("database", "server", "schema", "user", "traceparent", "trace_id", "span_id"),
    )
)
# https://www.w3.org/TR/trace-context/: version, trace, parent, flags. A later version may add more.
_LENGTHS = (2, 32, 16, 2)
# Programs that read the log have such a limit, too. We would hit Python's own while writing a line.
_DEEPEST = 32
_HEXADECIMAL = frozenset("0123456789abcdef")


def parse(value: str) -> dict[str, object]:
    """Return the fields in LOG_FIELDS. Raises ValueError, with a clause that says what is wrong and quotes nothing."""
    try:
        found = json.loads(value, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"is not JSON{where}; it must be an object, like {_EXAMPLE}") from None
    if not isinstance(found, dict) or "" in found:
        raise ValueError(f"must be a JSON object with a name for each field, like {_EXAMPLE}")
    if _deeper_than(found, _DEEPEST):
        raise ValueError(f"is nested more than {_DEEPEST} levels deep")
    if taken := sorted(_OURS & found.keys()):
        raise ValueError(f"must not contain {', '.join(taken)}: the program sets that itself")
    return found


def trace(traceparent: str) -> dict[str, str | None]:
    """Return a traceparent's fields; empty if it is malformed, because the W3C says to ignore it then."""
    value = traceparent.strip()
    parts = value.split("-")
    version, trace_id, span_id, _ = (*parts, *[""] * 4)[:4]
    if (
        [len(part) for part in parts[:4]] != list(_LENGTHS)
        or not set("".join(parts[:4])) <= _HEXADECIMAL
        or not value.isascii()
        or not value.isprintable()
        or version == "ff"
        or (version == "00" and len(parts) > len(_LENGTHS))
        or not (trace_id.strip("0") and span_id.strip("0"))
    ):
        return {}
    return {"traceparent": value, "trace_id": trace_id, "span_id": span_id}


def _deeper_than(value: object, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    within = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(one, levels - 1) for one in within)


def _refuse(_: str) -> NoReturn:
    """Refuse NaN and infinities, which only Python accepts in JSON."""
    raise ValueError
