"""The Compose files' example application without containers: its images are folders, its replicas are processes."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter, deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from demo.postgres import HOST, free_port
from kit.processes import Run, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.databases import Database

SHOP = Path(__file__).parents[2] / "compose" / "shop"
KETTLE = {"product": 1, "quantity": 2}  # 69.80


def make_image(folder: Path, version: int) -> Path:
    """Create the folder for a version, as the Dockerfile does, and return it."""
    for earlier in range(1, version + 1):
        shutil.copytree(SHOP / f"version{earlier}", folder, dirs_exist_ok=True)
    return folder


class Replica:
    """One replica, started as in the image: `entrypoint run -- python server.py`."""

    def __init__(self, start: Callable[..., Run], image: Path, database: Database, **variables: str) -> None:
        """Start it in `image`, a folder with the version's files."""
        self.port = free_port()
        self.environment = {
            "DATABASE_URL": database.url,
            "PORT": str(self.port),
            "MIGRATION_PROBE_PORT": str(self.port),
            **variables,
        }
        self.image = image
        self._start = start
        self.run = start("run", "--", sys.executable, "server.py", env=self.environment, cwd=image)

    def healthy(self) -> bool:
        """Return the result of the health check."""
        check = Run([sys.executable, "health.py"], directory=self.image, env=self.environment)
        return check.wait() == 0

    def serving(self) -> Replica:
        """Wait until it is healthy, and return the replica."""
        until(self.healthy, 30, self.run.report)
        return self

    def get(self, path: str = "/") -> tuple[int, dict[str, Any]]:
        """Get a path; return the status and the page."""
        return self.send(path, None)

    def send(self, path: str, content: object) -> tuple[int, dict[str, Any]]:
        """Post `content`, or get the path if it is None; return the status and the page."""
        body = None if content is None else json.dumps(content).encode()
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", body, timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


class ReplicaSet:
    """Replicas behind a load balancer, with rollouts as in a Deployment: a new one is ready before an old one stops."""

    def __init__(self, start: Callable[[int], Replica], version: int, number: int = 3) -> None:
        """Start `number` replicas of a version, and wait until they serve; `start` starts one."""
        self._start = start
        self._change = threading.Condition()
        started = [start(version) for _ in range(number)]
        self._turns = deque(replica.serving() for replica in started)
        # How many requests each replica is answering.
        self._busy: Counter[Replica] = Counter()

    def roll_out(self, version: int, meanwhile: Callable[[], None]) -> None:
        """Replace all replicas, one after the other; call `meanwhile` whenever both old and new ones run."""
        for replica in list(self._turns):
            self._add(version)
            meanwhile()
            self._remove(replica)

    def _add(self, version: int) -> None:
        """Start a replica, and send it requests once it is ready."""
        replica = self._start(version).serving()
        with self._change:
            self._turns.append(replica)

    def _remove(self, replica: Replica) -> None:
        """Send a replica no more requests, let it finish those it has, and stop it."""
        with self._change:
            self._turns.remove(replica)
            assert self._change.wait_for(lambda: self._busy[replica] == 0, 30)
        replica.run.terminate()
        assert replica.run.wait() == 0, replica.run.report()

    @contextmanager
    def turn(self) -> Iterator[Replica]:
        """Yield the next replica in turn, for one request."""
        with self._change:
            replica = self._turns[0]
            self._turns.rotate(-1)
            self._busy[replica] += 1
        try:
            yield replica
        finally:
            with self._change:
                self._busy[replica] -= 1
                self._change.notify_all()


class Visitors:
    """Visitors who look and order all the time, each request at the next replica; a context manager."""

    def __init__(self, replicas: ReplicaSet, number: int = 3) -> None:
        """Prepare this many visitors."""
        self._replicas = replicas
        self._leave = threading.Event()
        self._lock = threading.Lock()
        self.placed = 0
        self.versions: Counter[int] = Counter()
        self.failures: list[str] = []
        self._visits = [0] * number
        self._threads = [threading.Thread(target=self._visit, args=(place,)) for place in range(number)]

    def __enter__(self) -> Self:
        """Start them."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them."""
        self._leave.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def requests(self) -> int:
        """How many requests there have been."""
        return 2 * sum(self._visits)

    def go_on(self, visits: int = 2) -> None:
        """Wait until each visitor has made a few more visits; fail if a request has failed."""
        wanted = [done + visits for done in self._visits]
        until(lambda: self.failures or all(done >= goal for done, goal in zip(self._visits, wanted, strict=True)), 60)
        assert self.failures == []

    def _visit(self, place: int) -> None:
        while not self._leave.is_set():
            seen = self._request("/", None, 200)
            placed = self._request("/orders", KETTLE, 201)
            with self._lock:
                self._visits[place] += 1
                self.versions[seen.get("version", 0)] += 1
                self.placed += "order" in placed

    def _request(self, path: str, content: object, wanted: int) -> dict[str, Any]:
        with self._replicas.turn() as replica:
            try:
                status, page = replica.send(path, content)
            except (OSError, ValueError) as error:
                status, page = 0, {"error": repr(error)}
        if status != wanted:
            self.failures.append(f"{path}: {status} {page}")
        return page
