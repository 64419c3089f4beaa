"""The text for Kubernetes: what it contains, and what is left out if it is too long."""

from __future__ import annotations

import pytest

from entrypoint.termination import compose


def test_message_faults_and_remedy() -> None:
    text = compose("2 faults", ["a.sql: bad", "b.sql: bad"], "Mend them.")
    assert text.decode() == "2 faults\n- a.sql: bad\n- b.sql: bad\nFix: Mend them."
    assert compose("just this", [], "") == b"just this"


@pytest.mark.parametrize("letter", ["x", "ü", "€", "😀"])
def test_a_long_one_is_cut_between_two_characters_and_keeps_the_remedy(letter: str) -> None:
    for shift in range(4):
        text = compose("-" * shift + letter * 5000, ["never seen"], f"Do {letter}.")
        assert 4090 <= len(text) <= 4096
        assert text.decode().endswith(f"{letter} ...\nFix: Do {letter}.")
        text = compose("short", [], letter * 5000)
        assert len(text) <= 4096
        assert text.decode().startswith("short\nFix: " + letter)


def test_what_is_no_text_is_made_one() -> None:
    assert compose("\udcff", [], "").decode() == "\\udcff"
