"""Chooses the tests of a quick run of the whole suite: some of everything, but not all of anything long."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pytest

_STEP = 4
# Fixtures that start a process. A case without a process is cheap, so none is left out.
_STARTERS = {"run_entrypoint", "run_program", "servers_by_version", "fresh_server"}


def of_a_quick_run(items: Iterable[pytest.Item], versions: Sequence[int]) -> Iterator[pytest.Item]:
    """Choose the tests of a quick run of the whole suite. The choice is the same in every run, until a test is added.

    - No test that is `thorough`.
    - Of a test marked `sampled(n)`: the first case, and every nth after it.
    - Of other tests that start processes: every fourth case, or one of two; the first one differs from test to test.
    - Of `any_server`: one version for each test, in turn, so that a file with several tests uses all versions; with
      `every_version`: all of them.
    """
    items = [item for item in items if not item.get_closest_marker("thorough")]
    cases: dict[str, dict[str, int]] = {}
    for item in items:
        of_function = cases.setdefault(_function(item), {})
        of_function.setdefault(_case(item), len(of_function))
    several = (function for function, of_function in cases.items() if len(of_function) > 1)
    begins = {function: number for number, function in enumerate(several)}
    turns: dict[tuple[str, str], int] = {}
    for item in items:
        function, case = _function(item), _case(item)
        place = cases[function][case]
        sampled = item.get_closest_marker("sampled")
        if sampled and place % sampled.args[0]:
            continue
        if not sampled and function in begins and _starts_processes(item):
            step = min(_STEP, len(cases[function]))
            if place % step != begins[function] % step:
                continue
        version = _version(item)
        if version is not None and not item.get_closest_marker("every_version"):
            turn = turns.setdefault((function, case), len(turns))
            if version != versions[turn % len(versions)]:
                continue
        yield item


def _starts_processes(item: pytest.Item) -> bool:
    wanted = item.get_closest_marker("every_case") or item.get_closest_marker("every_version")
    return not wanted and bool(_STARTERS & set(getattr(item, "fixturenames", ())))


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _version(item: pytest.Item) -> int | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("any_server") if callspec else None


def _case(item: pytest.Item) -> str:
    """Return the name of the case, without the version of PostgreSQL."""
    callspec = getattr(item, "callspec", None)
    return callspec.id.replace(f"pg{_version(item)}", "") if callspec else ""
