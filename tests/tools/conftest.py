"""What the tests of the tools have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from tools import HOME

if TYPE_CHECKING:
    from tools.kit import Tool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give these tests more time: each starts other programs a dozen times, some of them on Java or Node.js."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(600))


def need(kind: type[Tool], project: Path) -> Tool:
    """Return the tool. If it is not installed, skip the test, or fail in CI if CI must have it."""
    tool = kind(HOME, project)
    reason = tool.missing()
    if reason and not kind.quick and os.environ.get("CI") == "true":
        pytest.skip(f"{reason}; to build it takes minutes, so CI does not")
    if reason:
        missing(reason)
    return tool
