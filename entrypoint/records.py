"""Named tuples without `typing` and `collections`, for the modules that every start imports.

What a type checker sees is `typing.NamedTuple`. At run time that one costs 5 ms (docs/startup-cost.md), as it brings
`re`, `enum` and `collections` along; this one is what a start needs of it: fields, defaults, `_replace`, `_asdict`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    try:
        # What `collections.namedtuple` takes, and falls back from in the same way.
        from _collections import _tuplegetter
    except ImportError:

        def _tuplegetter(index, _doc):  # noqa: ANN001, ANN202 - type checkers do not look here
            return property(lambda self: tuple.__getitem__(self, index))

    class NamedTuple(tuple):
        """Base of an immutable record; its annotations name its fields, in their order."""

        __slots__ = ()
        _fields: tuple[str, ...] = ()
        _defaults: dict[str, object] = {}  # noqa: RUF012 - never changed, but replaced by each subclass

        def __init_subclass__(cls) -> None:
            cls._fields = tuple(cls.__annotations__)
            cls._defaults = {name: cls.__dict__[name] for name in cls._fields if name in cls.__dict__}
            for index, name in enumerate(cls._fields):
                setattr(cls, name, _tuplegetter(index, None))

        def __new__(cls, *values, **named):  # noqa: ANN002, ANN003, ANN204 - the same
            """Take the fields' values by position or by name."""
            if missing := cls._fields[len(values) :]:
                try:
                    values += tuple([named.pop(name) if name in named else cls._defaults[name] for name in missing])
                except KeyError as error:
                    raise TypeError(f"{cls.__name__} needs {error}") from None
            if named or len(values) > len(cls._fields):
                raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
            return tuple.__new__(cls, values)

        def _replace(self, **changed):  # noqa: ANN003, ANN202 - the same
            return type(self)(**dict(zip(self._fields, self, strict=True)) | changed)

        def _asdict(self):  # noqa: ANN202 - the same
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self) -> str:
            pairs = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({pairs})"


__all__ = ["NamedTuple"]
