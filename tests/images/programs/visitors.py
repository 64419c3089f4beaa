"""Visitors of the shop: `visitors.py URL NUMBER` looks and orders until SIGTERM, then prints as JSON what happened.

A separate program, since it has to run on the network of the engine's containers. Each request has a new connection.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Diary:
    """What has happened so far, to all visitors together."""

    requests: int = 0
    placed: int = 0
    slowest_s: float = 0
    failures: list[str] = field(default_factory=list)
    versions: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    replicas: Counter[str] = field(default_factory=Counter)


def visit(url: str, diary: Diary, lock: threading.Lock, leave: threading.Event) -> None:
    """Look at the front page and place an order, in turn."""
    ordering = False
    while not leave.is_set():
        began = time.monotonic()
        address, body = (f"{url}/orders", b'{"product": 2, "quantity": 3}') if ordering else (f"{url}/", None)
        try:
            with urllib.request.urlopen(urllib.request.Request(address, data=body), timeout=30) as response:
                status, page = response.status, json.load(response)
            failure = None if status == (201 if ordering else 200) else f"{status} {page}"
        except (OSError, ValueError) as error:
            failure, page = f"{'POST' if ordering else 'GET'}: {error!r}", {}
        with lock:
            diary.requests += 1
            diary.slowest_s = max(diary.slowest_s, time.monotonic() - began)
            if failure is not None:
                diary.failures.append(f"{time.time():.3f} {failure}")
            elif ordering:
                diary.placed += 1
            else:
                diary.versions[page["version"]] += 1
                diary.outcomes[page["outcome"]] += 1
                diary.replicas[page["replica"]] += 1
        ordering = not ordering
        leave.wait(0.03)


def main() -> None:
    """Send the visitors, call them back at SIGTERM, and print the diary."""
    url, number = sys.argv[1], int(sys.argv[2])
    diary, lock, leave = Diary(), threading.Lock(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    visitors = [threading.Thread(target=visit, args=(url, diary, lock, leave)) for _ in range(number)]
    for visitor in visitors:
        visitor.start()
    leave.wait()
    for visitor in visitors:
        visitor.join()
    print(json.dumps(vars(diary)))


if __name__ == "__main__":
    main()
