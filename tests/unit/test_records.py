"""Records without `typing` behave like its named tuples, as far as we need them to."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from entrypoint.records import NamedTuple


class Point(NamedTuple):
    """Something with a default, a property and a method."""

    x: int
    y: int = 2
    """Documented."""

    @property
    def sum(self) -> int:
        return self.x + self.y

    def moved(self, by: int) -> Point:
        return self._replace(x=self.x + by)


def test_fields() -> None:
    point = Point(1)
    assert (point.x, point.y) == (1, 2)
    assert Point(x=1) == Point(1, 2) == Point(1, y=2) == (1, 2)
    assert Point(y=3, x=1) == (1, 3)
    assert Point._fields == ("x", "y")


def test_it_is_a_tuple() -> None:
    x, y = Point(1)
    assert (x, y) == (1, 2)
    assert sorted([Point(2), Point(1, 3), Point(1)]) == [Point(1), Point(1, 3), Point(2)]
    assert len({Point(1), Point(1, 2)}) == 1


def test_methods() -> None:
    assert Point(1).sum == 3
    assert Point(1).moved(4) == Point(5, 2)
    assert isinstance(Point(1).moved(4), Point)
    assert repr(Point(1)) == "Point(x=1, y=2)"


def test_it_has_what_type_checkers_take_it_for() -> None:
    """Type checkers are told that it is `typing.NamedTuple`."""
    assert Point._make([1, 3]) == Point(1, 3)
    assert Point._field_defaults == {"y": 2}
    assert set(get_type_hints(Point)) == {"x", "y"}
    match Point(1):
        case Point(x, 2):
            assert x == 1
        case _:
            pytest.fail("it does not match")


def test_nothing_can_be_set() -> None:
    with pytest.raises(AttributeError):
        Point(1).x = 3  # type: ignore[misc]  # the error is what is tested


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 3}), ((1,), {"x": 2}), ((), {"y": 1})]
)
def test_what_does_not_fit(values: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Point(*values, **named)


def test_replacing_what_is_not_there() -> None:
    with pytest.raises(TypeError):
        Point(1)._replace(z=1)  # type: ignore[call-arg]  # the error is what is tested
