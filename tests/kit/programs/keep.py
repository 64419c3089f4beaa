"""Run a command as another migration tool, under a lease that is never lost; print how it ended as JSON.

keep.py SECONDS COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace
from typing import Any, cast

from entrypoint import logs, signals
from entrypoint.database.session import Parameters
from entrypoint.deadline import Deadline
from entrypoint.records import Address
from entrypoint.tool import running


def main(seconds: str, *argv: str) -> None:
    """Run the command as the lock's holder."""
    signals.install()
    style = "text" if os.isatty(2) else "json"
    logs.configure(style=style, level="info", stream=sys.stderr, secrets=["a-known-secret"])
    worker = SimpleNamespace(
        parameters=lambda: Parameters({}, {"password": "hush-hush"}),
        server_version=160000,
        usable=False,
    )
    lease = SimpleNamespace(worker=worker, check_guard=lambda: None, look=lambda *_, **__: True)
    address = Address("postgresql://here/it", "DATABASE_URL")
    token, terminal = "0123456789abcdef.1", logs.on_terminal()
    order = running.ToolOrder(argv, dict(os.environb), address, token, pooled=True, terminal=terminal)
    try:
        ended = running.run_tool(order, cast("Any", lease), Deadline(float(seconds)))
    except signals.Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
    print(json.dumps(ended._asdict()))


main(*sys.argv[1:])
