"""On PYTHONPATH: makes the program assume that `standard_conforming_strings` is on, whatever the server says.

If it is off, the program cannot see every COMMIT. So tests can check the safeguards behind that.
"""

from entrypoint.database.session import Session

_parameter = Session.parameter


def _blind(self: Session, name: str) -> str | None:
    return "on" if name == "standard_conforming_strings" else _parameter(self, name)


Session.parameter = _blind  # type: ignore[method-assign]
