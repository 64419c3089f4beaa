"""Every variable that the program reads is in the reference's table and has a place in docs/configuration.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from entrypoint.settings.variables import GROUPS
from kit.manifests.program import program_variables

pytestmark = pytest.mark.text

ROOT = Path(__file__).parents[1]
# Read if APP_VERSION is not set, and documented with it.
NO_ROW_OF_ITS_OWN = {"npm_package_version"}
# Common conventions, which our reference need not explain.
EVERYBODYS = {"NO_COLOR", "CLICOLOR_FORCE"}


def names(text: str) -> set[str]:
    return set(re.findall(r"`([A-Z_]+)`", text))


def test_the_reference_has_a_row_for_each_variable() -> None:
    page = (
        (ROOT / "docs" / "reference.md")
        .read_text()
        .partition("\n## Environment variables\n")[2]
        .partition("\n`run` adds")[0]
    )
    first_columns = "\n".join(re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE))
    assert names(first_columns) == (program_variables() - NO_ROW_OF_ITS_OWN) | EVERYBODYS


def test_the_page_about_configuration_tells_of_each_variable() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    headings = names("\n".join(re.findall(r"^### .*", page, re.MULTILINE)))
    log = names(page.partition("\n## The log\n")[2].partition("\n## ")[0])
    assert headings | log == (program_variables() - NO_ROW_OF_ITS_OWN) | EVERYBODYS
    assert "`npm_package_version`" in page


def test_help_has_each_variable_with_the_default_of_the_page() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    headings = "\n".join(re.findall(r"^### .*", page, re.MULTILINE))
    documented = dict(re.findall(r"`([A-Z_]+)` \((?:default )?`?([^`():]+)`?\)", headings))
    listed = [variable for variables in GROUPS.values() for variable in variables]
    assert {variable.name for variable in listed} == (program_variables() - NO_ROW_OF_ITS_OWN) | EVERYBODYS
    assert len(listed) == len({variable.name for variable in listed})
    shown = {variable.name: variable.default for variable in listed}
    assert len(documented) > 12
    assert {name: shown[name] for name in documented} == documented
