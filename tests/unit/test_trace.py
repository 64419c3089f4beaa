"""TRACEPARENT, as the W3C's trace context has it; whatever is malformed is passed over."""

from __future__ import annotations

import pytest

from entrypoint.settings.log_fields import trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("value", [VALID, f" {VALID}\n", f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-00-more"])
def test_valid(value: str) -> None:
    if value.endswith("-more"):  # A later version's may be anything; letters beyond f are none of ours.
        assert trace(value) == {}
        value = value.replace("more", "abc")
    assert trace(value) == {"traceparent": value.strip(), "trace_id": TRACE, "span_id": SPAN}


@pytest.mark.parametrize(
    "value",
    [
        *("", "-", "---", "00", VALID.upper(), VALID[:-1], f"{VALID}-00", VALID.replace("00-", "ff-", 1), f"0{VALID}"),
        *(f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", VALID.replace("-", "_"), VALID.replace("b", "g")),
        *("postgresql://u:secret@h/d", "\udcff", VALID.replace("4", "\N{ARABIC-INDIC DIGIT FOUR}")),
    ],
)
def test_malformed(value: str) -> None:
    assert trace(value) == {}
