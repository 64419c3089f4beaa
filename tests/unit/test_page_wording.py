"""Texts, times and lengths as the page shows them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from entrypoint.service import wording

LENGTHS = {0: "0 ms", 7: "7 ms", 999: "999 ms", 999.6: "1.0 s", 1_400: "1.4 s", 59_949: "59.9 s", 59_950: "1 min"}
LENGTHS |= {125_000: "2 min 5 s", 3_600_000: "1 h", 11_520_000: "3 h 12 min", 187_200_000: "2 d 4 h"}

WHOLE = {
    -1: "0 s",
    0: "0 s",
    0.4: "0 s",
    43.2: "43 s",
    59.6: "1 min",
    61: "1 min 1 s",
    3_599.6: "1 h",
    1e9: "11574 d 1 h",
}


@pytest.mark.parametrize("milliseconds", LENGTHS)
def test_length(milliseconds: float) -> None:
    assert wording.length(milliseconds) == LENGTHS[milliseconds]


@pytest.mark.parametrize("seconds", WHOLE)
def test_whole(seconds: float) -> None:
    assert wording.whole(seconds) == WHOLE[seconds]


NAMES = {
    "plain": ("001_a.sql", "001_a.sql"),
    "markup is the template's business": ("<b>&amp;", "<b>&amp;"),
    "another script": ("данные_データ", "данные_データ"),
    "lines": ("a\nb\tc", "a⟨U+000A⟩b⟨U+0009⟩c"),
    "a terminal's orders": ("\x1b[31mred", "⟨U+001B⟩[31mred"),
    "the other direction": ("invoice\u202elqs.exe", "invoice⟨U+202E⟩lqs.exe"),
    "not to be seen": ("a\u200bb\u00adc\u2066d\ufeffe", "a⟨U+200B⟩b⟨U+00AD⟩c⟨U+2066⟩d⟨U+FEFF⟩e"),
    "half a pair": ("\ud83d", "⟨U+D83D⟩"),
    "beyond 16 bits": ("\U000e0041", "⟨U+E0041⟩"),
    "long": ("x" * 205, "x" * 200 + "… (5 more characters)"),
    "as long as it may be": ("x" * 200, "x" * 200),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("case", NAMES)
def test_name(case: str) -> None:
    text, shown = NAMES[case]
    assert wording.name(text) == shown


REPORTS = {
    "its lines are kept": ("a\n    b\n    ^\n\tc\n", "a\n    b\n    ^\n\tc"),
    "whatever ends them": ("a\r\nb", "a\nb"),
    "but not what goes back in a line": ("good\rbad", "good⟨U+000D⟩bad"),
    "long": ("y\n" * 3_000, "y\n" * 2_000 + "… (1999 more characters)"),
}


@pytest.mark.parametrize("case", REPORTS)
def test_report(case: str) -> None:
    text, shown = REPORTS[case]
    assert wording.report(text) == shown


MOMENTS = {
    "2026-11-22T10:30:00Z": datetime(2026, 11, 22, 10, 30, tzinfo=UTC),
    "2026-11-22T10:30:00+02:00": datetime(2026, 11, 22, 8, 30, tzinfo=UTC),
    "infinity": None,
    "-infinity": None,
    "294276-01-01T00:00:00Z": None,
    "0044-03-15T00:00:00Z BC": None,
    "": None,
    None: None,
}


@pytest.mark.parametrize("text", MOMENTS)
def test_moment(text: str | None) -> None:
    assert wording.moment(text) == MOMENTS[text]


def test_dates() -> None:
    moment = datetime(2026, 3, 1, 9, 5, 7, tzinfo=UTC)
    assert wording.day(moment) == "Sunday, 1 March 2026"
    assert wording.date(moment) == "1 Mar 2026"
    assert wording.machine(moment) == "2026-03-01T09:05:07Z"
    assert wording.machine(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01T00:00:00Z"
