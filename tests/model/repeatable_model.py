"""Random histories of releases, each with a text of one view: which text is in force after each start.

A release may have a new migration, and a new text or sometimes an earlier one. During its rollout, replicas of it and
of the previous release start and restart in any order; now and then, a much older release does too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from entrypoint.migration.ledger.repeatables import Text, judge_files
from entrypoint.migration.script.files import Repeatable

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    Rule = Callable[["Release", Sequence[Text]], bool]

NAME = "v"


class Release(NamedTuple):
    """An image."""

    order: int
    newest: int
    """The highest number among its migrations."""
    text: str


class History(NamedTuple):
    """The result."""

    releases: list[Release]
    texts: list[Text]
    applications: list[tuple[Release, Release | None]]
    """Each release that applied its text, and the one whose text was in force before."""

    @property
    def backwards(self) -> int:
        """Return how often an older release's text replaced a newer one's."""
        return sum(before is not None and mine.order < before.order for mine, before in self.applications)


def as_designed(mine: Release, texts: Sequence[Text]) -> bool:
    """Tell whether a start of `mine` applies its text."""
    return bool(judge_files([Repeatable(NAME, "", mine.text, mine.text)], texts, mine.newest).due)


def by_checksum(mine: Release, texts: Sequence[Text]) -> bool:
    """Apply what differs."""
    return not any(text.checksum == mine.text for text in texts if not text.replaced)


def by_number(mine: Release, texts: Sequence[Text]) -> bool:
    """Apply what differs, unless an image with a higher number has been here."""
    return by_checksum(mine, texts) and mine.newest >= max((text.newest for text in texts), default=0)


def start(mine: Release, texts: list[Text], rule: Rule) -> bool:
    """Start a replica; tell whether it applied its text."""
    if not rule(mine, texts):
        return False
    texts[:] = [text if text.replaced else text._replace(replaced=True, replaced_under=mine.newest) for text in texts]
    texts.append(Text(NAME, mine.text, mine.newest, replaced=False, replaced_under=None))
    return True


def releases(chance: random.Random, count: int) -> list[Release]:
    """Return an application's releases in order."""
    made = [Release(0, 1, "t0")]
    for order in range(1, count):
        before = made[-1]
        migration = chance.random() < 0.6
        text = f"t{order}" if chance.random() < 0.5 else before.text
        if chance.random() < 0.1:
            text = chance.choice(made).text
        made.append(Release(order, before.newest + migration, text))
    return made


def play(chance: random.Random, rule: Rule, count: int = 8) -> History:
    """Roll out one release after another."""
    made, texts = releases(chance, count), []  # type: tuple[list[Release], list[Text]]
    applications: list[tuple[Release, Release | None]] = []
    in_force: Release | None = None
    for order, mine in enumerate(made):
        if mine is not made[-1] and chance.random() < 0.2:
            continue  # it was built, but replaced before its rollout
        starting = [mine] + [chance.choice(made[max(0, order - 1) : order + 1]) for _ in range(5)]
        if chance.random() < 0.1:
            starting.append(chance.choice(made[: order + 1]))
        chance.shuffle(starting)
        for replica in (*starting, mine):
            if start(replica, texts, rule):
                applications.append((replica, in_force))
                in_force = replica
    return History(made, texts, applications)
