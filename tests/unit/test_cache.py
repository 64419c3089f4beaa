"""The cache asks one question at a time, at most one per second, and returns nothing stale."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, cast

import pytest

from entrypoint.service.cache import Cache, StoppingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.service.snapshot import Snapshot


class Database:
    """Counts how often it is asked, and answers when it is allowed to."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = threading.Event()
        self.open.set()
        self.now = 100.0

    def read(self) -> Snapshot:
        self.asked += 1
        number = self.asked
        assert self.open.wait(10)
        return cast("Snapshot", number)

    def late(self, seconds: float) -> Snapshot:
        return cast("Snapshot", f"late by {seconds:g}")

    def clock(self) -> float:
        return self.now

    def cache(self, patience: float = 5) -> Cache:
        return Cache(self.read, self.late, patience, clock=self.clock)


@pytest.fixture
def database() -> Database:
    return Database()


def test_a_thousand_at_once_are_one_question(database: Database) -> None:
    async def ask() -> list[object]:
        cache = database.cache()
        return list(await asyncio.gather(*(cache.get() for _ in range(1000))))

    assert asyncio.run(ask()) == [1] * 1000
    assert database.asked == 1


def test_an_answer_is_good_for_a_second(database: Database) -> None:
    async def ask() -> list[object]:
        cache = database.cache()
        found: list[object] = []
        for moment in (100.0, 100.5, 100.999, 101.0, 101.9, 102.0):
            database.now = moment
            found.append(await cache.get())
        return found

    assert asyncio.run(ask()) == [1, 1, 1, 2, 2, 3]


def test_who_has_waited_long_enough_is_told_so(database: Database) -> None:
    """Whoever comes later does not wait at all: the question has taken longer than anybody waits."""

    async def ask() -> list[object]:
        database.open.clear()
        cache = database.cache(patience=0.05)
        found: list[object] = [await cache.get()]
        database.now += 7
        found.append(await cache.get())
        assert database.asked == 1
        database.open.set()
        await _until(lambda: cache._flight is None)
        found.append(await cache.get())
        return found

    assert asyncio.run(ask()) == ["late by 0", "late by 7", 1]


def test_what_was_known_is_not_repeated_while_the_database_is_silent(database: Database) -> None:
    async def ask() -> list[object]:
        cache = database.cache(patience=0.05)
        found: list[object] = [await cache.get()]
        database.open.clear()
        database.now += 2
        found.append(await cache.get())
        database.open.set()
        await _until(lambda: cache._flight is None)
        found.append(await cache.get())
        return found

    assert asyncio.run(ask()) == [1, "late by 0", 2]


def test_a_client_that_goes_away_takes_nothing_from_the_others(database: Database) -> None:
    async def ask() -> object:
        database.open.clear()
        cache = database.cache()
        leaving, staying = asyncio.create_task(cache.get()), asyncio.create_task(cache.get())
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        database.open.set()
        return await staying

    assert asyncio.run(ask()) == 1
    assert database.asked == 1


def test_at_the_end_nobody_waits_any_more(database: Database) -> None:
    """The question may still be running; nobody asks another one."""

    async def ask() -> list[object]:
        database.open.clear()
        cache = database.cache()
        waiting = [asyncio.create_task(cache.get()) for _ in range(3)]
        await _until(lambda: database.asked == 1)
        cache.leave()
        found = await asyncio.gather(*waiting, cache.get(), return_exceptions=True)
        database.open.set()
        return [type(error) for error in found]

    assert asyncio.run(ask()) == [StoppingError] * 4
    assert database.asked == 1


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError
