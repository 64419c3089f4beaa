"""TRACEPARENT, as W3C Trace Context defines it; a malformed value is ignored."""

from __future__ import annotations

import pytest

from entrypoint.settings.log_fields import trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "value",
    # A later version may append anything.
    [VALID, f" {VALID}\n", f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-00-more", f"01-{TRACE}-{SPAN}-01-a-Z"],
)
def test_valid(value: str) -> None:
    assert trace(value) == {"traceparent": value.strip(), "trace_id": TRACE, "span_id": SPAN}


@pytest.mark.parametrize(
    "value",
    [
        *("", "-", "---", "00", VALID.upper(), VALID[:-1], f"{VALID}-00", VALID.replace("00-", "ff-", 1), f"0{VALID}"),
        *(f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", VALID.replace("-", "_"), VALID.replace("b", "g")),
        *(f"01-{TRACE}-{SPAN}-01x", f"01-{TRACE}-{SPAN}-01-\x1b[1m", f"01-{TRACE}-{SPAN}-01-\xe9"),
        *("postgresql://u:secret@h/d", "\udcff", VALID.replace("4", "\N{ARABIC-INDIC DIGIT FOUR}")),
    ],
)
def test_malformed(value: str) -> None:
    assert trace(value) == {}
