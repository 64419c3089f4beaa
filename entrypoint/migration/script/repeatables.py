"""The order in which repeatable files run: `repeatable/NAME.sql`, applied again whenever the text changes.

They define what can be replaced without losing data: views, functions, triggers, privileges. They run in the order of
their names, except that each runs after the files that it names in `-- entrypoint: after = NAME`.
"""

from __future__ import annotations

from entrypoint.migration.script.files import REPEATABLES, FileFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def run_order(names: Iterable[str], after: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], list[FileFault]]:
    """Return the names in the order in which the files run, and the faults in their `after` directives.

    `after`: for each file, those that run before it. Of several files that could be next, the first by name is.
    """
    left = set(names)
    known = frozenset(left)
    faults = [
        _fault(name, f"after = {other}: there is no {REPEATABLES}/{other}.sql")
        for name in sorted(left)
        for other in after.get(name, ())
        if other not in known
    ]
    done: list[str] = []
    while left:
        ready = [name for name in left if not left.intersection(after.get(name, ()))]
        if not ready:
            circle = _circle(left, after)
            faults.append(_fault(circle[0], f"runs after itself: {' after '.join((*circle, circle[0]))}"))
            break
        done.append(min(ready))
        left.remove(done[-1])
    return tuple(done), faults


def _circle(left: set[str], after: Mapping[str, Sequence[str]]) -> list[str]:
    """Return names of which each runs after the next, and the last after the first. Each file `left` waits for one."""
    walked = [min(left)]
    while (following := min(left.intersection(after[walked[-1]]))) not in walked:
        walked.append(following)
    circle = walked[walked.index(following) :]
    first = circle.index(min(circle))
    return circle[first:] + circle[:first]


def _fault(name: str, message: str) -> FileFault:
    return FileFault((f"{REPEATABLES}/{name}.sql",), "order", message)
