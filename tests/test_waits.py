"""The main thread waits only in slices. Checked in the source, since a signal rarely comes at exactly the wrong moment.

If another thread receives a signal, or if it comes just before a system call, that call does not end. So no wait of the
main thread is longer than `deadline.SLICE`. `deadline` has the functions for that, and this test lists the exceptions.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import entrypoint

pytestmark = pytest.mark.text

PACKAGE = Path(entrypoint.__file__).parent

WAITS = {"sleep", "wait", "join", "acquire", "poll", "communicate", "select"}

# Other places that wait, and why they do no harm.
ALLOWED = {
    ("bounded.py", "_read"): "a slice",
    ("bounded.py", "_end"): "after SIGKILL",
    ("deadline.py", "pause"): "a slice",
    ("deadline.py", "wait"): "given to sliced",
    ("signals.py", "_end_after_a_while"): "a thread of its own, the watchdog",
    ("database/libpq.py", "_ready"): "a thread of its own, the first look's or an attempt's to connect",
    ("database/pq_psycopg.py", "_log_in"): "a thread of its own, an attempt's to connect",
    ("database/pq_psycopg.py", "cancel"): "a thread of its own, a cancel's",
    ("database/login.py", "__init__"): "a lock that nobody else has",
    ("database/login.py", "taken"): "given to sliced",
    ("database/session.py", "wait_for_end"): "the guard's thread",
    ("database/session.py", "_wait"): "a slice",
    ("migration/ledger/first_look.py", "__init__"): "a lock that nobody else has; then less than a slice",
    ("migration/ledger/first_look.py", "answer"): "a slice",
    ("migration/lock/guard.py", "_keep_until_released"): "the guard's thread",
    ("migration/apply/watcher.py", "_watch"): "the watcher's thread",
    ("migration/apply/watcher.py", "stand_down"): "given to deadline.sliced",
    ("migration/script/parser.py", "__init__"): "a lock that nobody else has",
    ("migration/script/parser.py", "parse"): "given to deadline.sliced",
    ("migration/script/parser.py", "_serve"): "the parser's thread",
    ("backup/waiting.py", "sleep"): "a tick",
    ("backup/waiting.py", "run"): "a tick",
    ("backup/waiting.py", "_end"): "subprocess looks every 50 ms, and so lets signals through",
    ("backup/store.py", "reserve"): "a millisecond",
    ("operations/child.py", "_output_of"): "a slice",
    ("operations/child.py", "run"): "after SIGKILL",
    ("migration/lock/guard.py", "backend_within"): "the relay's threads",
    ("tool/keeper.py", "run"): "a process of its own",
    ("tool/kept.py", "wait"): "ticks",
    ("tool/kept.py", "_end"): "the keeper has ended, or closed its end as the last thing that it does",
    ("tool/output.py", "finish"): "less than a slice in all",
    ("tool/pump.py", "_alternate"): "the relay's threads",
    ("tool/relay.py", "_accept"): "the relay's thread",
    ("tool/running.py", "_attend"): "a slice",
    ("probe.py", "_turn"): "the probe's thread",
    ("probe.py", "_accept"): "the probe's thread",
}
# Not waits in the kernel, but our own functions with such a name.
OURS = {("migration/apply/migrator.py", "under_lock"), ("migration/operator/rehearsal.py", "rehearse")}
OURS |= {("backup/dump.py", "_dump"), ("tool/running.py", "_end")}
OURS |= {("operations/wait.py", "wait_for_database"), ("operations/wait.py", "wait_for_schema")}
# The service has threads, and an event loop, which signals wake up.
ELSEWHERE = ("service/",)


def waits_in(path: Path) -> list[tuple[str, int, str]]:
    """Return the calls in a module that may wait: the function, the line, and the call's name."""
    found: list[tuple[str, int, str]] = []

    def walk(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and (name := _name(node.func)):
            found.append((function, node.lineno, name))
        for child in ast.iter_child_nodes(node):
            walk(child, function)

    walk(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def _name(function: ast.expr) -> str | None:
    """Return the name of the called function, if it is one that waits."""
    if isinstance(function, ast.Name):
        return function.id if function.id == "sleep" else None
    if not isinstance(function, ast.Attribute) or function.attr not in WAITS:
        return None
    whose = function.value
    text = isinstance(whose, ast.Constant | ast.JoinedStr)  # ", ".join(…)
    path = isinstance(whose, ast.Attribute) and whose.attr == "path"  # os.path.join(…)
    ours = (
        function.attr == "poll" and isinstance(whose, ast.Name) and whose.id in {"select", "process"}
    )  # creates or asks
    return None if text or path or ours else function.attr


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if not str(path.relative_to(PACKAGE)).startswith(ELSEWHERE)]


@pytest.mark.case("B12")
def test_the_main_thread_waits_in_slices() -> None:
    strangers = [
        f"{path.relative_to(PACKAGE)}:{line}: {name} in {function or 'the module'}"
        for path in MODULES
        for function, line, name in waits_in(path)
        if (str(path.relative_to(PACKAGE)), function) not in ALLOWED.keys() | OURS
    ]
    assert not strangers, "use deadline.pause, deadline.sliced or deadline.joined:\n" + "\n".join(strangers)


def test_each_exception_is_in_use() -> None:
    used = {(str(path.relative_to(PACKAGE)), function) for path in MODULES for function, _line, _name in waits_in(path)}
    assert (ALLOWED.keys() | OURS) - used == set()
