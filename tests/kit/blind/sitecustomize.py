"""On PYTHONPATH: a program that takes the server's strings for the standard's, whatever the server says.

So a COMMIT can hide from it where `standard_conforming_strings` is off, and what stands behind that can be tested.
"""

from entrypoint.database.session import Session

_parameter = Session.parameter


def _blind(self: Session, name: str) -> str | None:
    return "on" if name == "standard_conforming_strings" else _parameter(self, name)


Session.parameter = _blind  # type: ignore[method-assign]
