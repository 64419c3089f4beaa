"""A log line that is written without a JSON library is the same as with one; values it cannot handle are refused."""

from __future__ import annotations

import json

import pytest

from entrypoint import logs

PLAIN = ["", "schema.up_to_date", "at version 30", "grün, 日本語", "it's <b>&amp;</b>", '\\ "x"', 0, -1, 2**70]
NOT_PLAIN = ["\n", "\0", "\x7f", "\u2028", "\ud800", "a\tb", True, None, 1.5, ["a"], {"a": 1}, b"x"]


@pytest.mark.parametrize("value", PLAIN)
def test_plain(value: object) -> None:
    line = {"event": "x", "value": value}
    assert logs._plain_json(line) == logs._any_json(line) == json.dumps(line, ensure_ascii=False)


@pytest.mark.parametrize("value", NOT_PLAIN)
def test_not_plain(value: object) -> None:
    assert logs._plain_json({"event": "x", "value": value}) is None


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "\u202e", "service.name", "grün", "app/part-of"])
def test_names_are_json_as_well(name: str) -> None:
    line = logs._plain_json({name: 1}) or logs._any_json({name: 1})
    assert json.loads(line) == {name: 1}


def test_every_printable_character() -> None:
    for first in range(0, 0x11000, 64):
        text = "".join(map(chr, range(first, first + 64)))
        line = logs._plain_json({"value": text})
        assert line is None or json.loads(line) == {"value": text}
        for character in text:
            line = logs._plain_json({"value": character})
            assert line is None or line == json.dumps({"value": character}, ensure_ascii=False)
