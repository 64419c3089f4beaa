"""Random histories of releases, each with a text of one view: which text is in force after each start.

A release has a new migration or not, a new text or not, and sometimes an earlier text again. While it is rolled out,
replicas of it and of the one before start and restart in any order; now and then one of a release long past does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from entrypoint.migration.ledger.repeatables import Text, judge
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
    """Of its migrations."""
    text: str


class History(NamedTuple):
    """What came of it."""

    releases: list[Release]
    texts: list[Text]
    applications: list[tuple[Release, Release | None]]
    """Who applied its text, and whose was in force before."""

    @property
    def backwards(self) -> int:
        """How often an older release's text took the place of a newer one's."""
        return sum(before is not None and mine.order < before.order for mine, before in self.applications)


def as_designed(mine: Release, texts: Sequence[Text]) -> bool:
    """Return whether a start of `mine` applies its text."""
    return bool(judge([Repeatable(NAME, "", mine.text, mine.text)], texts, mine.newest).due)


def by_checksum(mine: Release, texts: Sequence[Text]) -> bool:
    """Apply what differs."""
    return not any(text.checksum == mine.text for text in texts if not text.replaced)


def by_number(mine: Release, texts: Sequence[Text]) -> bool:
    """Apply what differs, unless an image with a higher number has been here."""
    return by_checksum(mine, texts) and mine.newest >= max((text.newest for text in texts), default=0)


def start(mine: Release, texts: list[Text], rule: Rule) -> bool:
    """Let a replica start; return whether it has applied its text."""
    if not rule(mine, texts):
        return False
    texts[:] = [text if text.replaced else text._replace(replaced=True, replaced_under=mine.newest) for text in texts]
    texts.append(Text(NAME, mine.text, mine.newest, replaced=False, replaced_under=None))
    return True


def releases(chance: random.Random, count: int) -> list[Release]:
    """Return the releases of an application, one after the other."""
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
    """Roll out one release after the other."""
    made, texts = releases(chance, count), []  # type: tuple[list[Release], list[Text]]
    applications: list[tuple[Release, Release | None]] = []
    in_force: Release | None = None
    for order, mine in enumerate(made):
        if mine is not made[-1] and chance.random() < 0.2:
            continue  # It was built, and replaced before it was rolled out.
        starting = [mine] + [chance.choice(made[max(0, order - 1) : order + 1]) for _ in range(5)]
        if chance.random() < 0.1:
            starting.append(chance.choice(made[: order + 1]))
        chance.shuffle(starting)
        for replica in (*starting, mine):
            if start(replica, texts, rule):
                applications.append((replica, in_force))
                in_force = replica
    return History(made, texts, applications)
