"""Our image, from outside: what is in it, how it starts, how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from images.kit.engine import Engine


def test_it_starts_the_application(engine: Engine, image: str) -> None:
    done = engine.run("run", "--rm", "--network=none", "--env=AUTO_MIGRATE=false", image, "/bin/echo", "hello")
    assert done.stdout == "hello\n"
