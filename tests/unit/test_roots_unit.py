"""The system's certificates: when libpq is given a file with them, and which one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from entrypoint.database import libpq, roots
from entrypoint.database.address import wants_the_systems_certificates

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Return the file with a system's certificates."""
    there = tmp_path / "second.pem"
    there.touch()
    monkeypatch.setattr(roots, "FILES", (str(tmp_path / "first.pem"), str(there)))
    monkeypatch.setattr(roots, "_DEFAULT", str(tmp_path / "default"))
    monkeypatch.setattr(libpq, "bundled", lambda: "/some/libpq.so")
    return str(there)


@pytest.mark.parametrize(("mode", "variables"), [(None, {}), ("verify-full", {}), (None, {"PGSSLMODE": "verify-full"})])
def test_a_libpq_of_psycopgs_is_told_the_first_that_is_there(
    file: str, mode: str | None, variables: dict[str, str]
) -> None:
    parameters = {"sslrootcert": "system", "sslmode": mode}
    assert roots.system_certificates(parameters, variables) == {"sslrootcert": file, "sslmode": "verify-full"}


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_openssls_variables_go_first(variable: str) -> None:
    assert roots.system_certificates({}, {variable: "/somewhere"}) == {}


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("mode", ["require", "verify-ca", "disable"])
def test_what_libpq_refuses_is_left_to_it(mode: str) -> None:
    assert roots.system_certificates({"sslmode": mode}, {}) == {}
    assert roots.system_certificates({}, {"PGSSLMODE": mode}) == {}


@pytest.mark.usefixtures("file")
def test_another_libpq_finds_them_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libpq, "bundled", lambda: None)
    assert roots.system_certificates({}, {}) == {}


@pytest.mark.usefixtures("file")
def test_what_somebody_put_where_this_openssl_looks_goes_first(tmp_path: Path) -> None:
    (tmp_path / "default").mkdir()
    assert roots.system_certificates({}, {}) == {}


@pytest.mark.usefixtures("file")
def test_without_certificates_libpq_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(roots, "FILES", (str(tmp_path / "first.pem"),))
    assert roots.system_certificates({}, {}) == {}


@pytest.mark.parametrize(
    ("parameters", "variables", "wanted"),
    [
        ({"sslrootcert": "system"}, {}, True),
        ({}, {"PGSSLROOTCERT": "system"}, True),
        ({"sslrootcert": "/a/file"}, {"PGSSLROOTCERT": "system"}, False),
        ({}, {}, False),
    ],
)
def test_who_wants_them(parameters: dict[str, str], variables: dict[str, str], *, wanted: bool) -> None:
    assert wants_the_systems_certificates(parameters, variables) == wanted
