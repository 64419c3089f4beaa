"""What `make dist` and `make audit` say about a release that is wrong. CI runs both on the real one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import zipfile
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from release import bom, distributions, pythons
from release.__main__ import check_tag
from release.problems import ReleaseError
from release.readme import Home, for_registry, urls
from release.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
HOME = Home("https://forge.example/us/pg", "https://forge.example/us/pg/blob/v1.2.3")
TOOLS = ROOT / "build" / "release" / "bin" / "python"


@pytest.fixture(scope="module")
def tools() -> Path:
    """Return the Python that has the release tools."""
    if not (TOOLS.parents[1] / "done").exists():
        missing("build/release is not there: `make dist` or `make audit` makes it")
    return TOOLS


# --- The README -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "known", "unknown"),
    [
        ("see [a](docs/a.md#b).", "see [a](https://forge.example/us/pg/blob/v1.2.3/docs/a.md#b).", "see a."),
        (
            "[`status [--json]`](docs/s.md)",
            "[`status [--json]`](https://forge.example/us/pg/blob/v1.2.3/docs/s.md)",
            "`status [--json]`",
        ),
        ("[out](https://example.org/x)", "[out](https://example.org/x)", "[out](https://example.org/x)"),
        ("[below](#commands)", "below", "below"),
        ("a\n\n![b](docs/c.svg)\n\nd", "a\n\nd", "a\n\nd"),
        ("```sh\n[a](b)\n```\n", "```sh\n[a](b)\n```\n", "```sh\n[a](b)\n```\n"),
        ("x\n\n    [a](b)\n\n[a](b)", f"x\n\n    [a](b)\n\n[a]({HOME.files}/b)", "x\n\n    [a](b)\n\na"),
    ],
)
def test_links_of_the_readme(text: str, known: str, unknown: str) -> None:
    assert for_registry(text, HOME) == known
    assert for_registry(text, Home()) == unknown


@pytest.mark.parametrize("home", [HOME, Home()], ids=["forge", "nowhere"])
def test_a_registry_renders_the_readme(home: Home, tools: Path) -> None:
    page = for_registry((ROOT / "README.md").read_text(encoding="utf-8"), home)
    rendered(tools, page)


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("# A\n\n[a](docs/a.md)\n", "lead nowhere: docs/a.md"),
        ("# A\n\nx [a](docs a.md)\n", "Markdown as text"),
        ("# A\n\ntext\n| a | b |\n|---|---|---|\n| 1 | 2 |\n", "<table>|Markdown as text"),
    ],
)
def test_a_readme_that_a_registry_would_spoil(page: str, says: str, tools: Path) -> None:
    with pytest.raises(AssertionError, match=says):
        rendered(tools, page)


def rendered(tools: Path, page: str) -> None:
    check = "import sys; from release.readme import check; check(sys.stdin.read())"
    done = subprocess.run([tools, "-c", check], input=page, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


def test_the_projects_pages_in_the_metadata() -> None:
    assert urls(HOME).splitlines()[1:3] == ["[project.urls]", 'Repository = "https://forge.example/us/pg"']
    assert f'Changelog = "{HOME.files}/CHANGELOG.md"' in urls(HOME)
    assert Home.from_environment({"PROJECT_URL": "https://a.example/b/"}) == Home("https://a.example/b")
    with pytest.raises(ReleaseError, match="FILES_URL"):
        Home.from_environment({"FILES_URL": 'https://a.example/"\nx'})


# --- The source -----------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a repository with the minimum that can be released."""
    root = tmp_path / "checkout"
    (root / "entrypoint").mkdir(parents=True)
    (root / "entrypoint" / "__init__.py").write_text('"""A."""\n\n__version__ = "1.2.3"\n')
    (root / "entrypoint" / "a.sql").write_text("SELECT 1")
    (root / "README.md").write_text("[a](a.md)\n")
    (root / "pyproject.toml").write_text("[project]\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=a", "--date=@1700000000 +0000")
    return root


def test_the_commit_is_exported_and_nothing_else(checkout: Path, tmp_path: Path) -> None:
    (checkout / "entrypoint" / "a.sql").write_text("SELECT 'changed'")
    (checkout / "entrypoint" / "new.sql").write_text("SELECT 2")
    source = Source.of(checkout)
    assert (source.version, source.tag, source.uncommitted) == ("1.2.3", "v1.2.3", True)
    assert source.epoch == int(git(checkout, "log", "-1", "--format=%ct"))
    assert source.files("entrypoint") == {"entrypoint/__init__.py", "entrypoint/a.sql"}
    old = os.umask(0o077)
    try:
        source.export(tmp_path / "tree", HOME)
    finally:
        os.umask(old)
    tree = tmp_path / "tree"
    assert (tree / "entrypoint" / "a.sql").read_text() == "SELECT 1"
    assert not (tree / "entrypoint" / "new.sql").exists()
    assert (tree / "README.md").read_text() == f"[a]({HOME.files}/a.md)\n"
    assert "[project.urls]" in (tree / "pyproject.toml").read_text()
    assert {path.stat().st_mode & 0o777 for path in tree.rglob("*.sql")} == {0o644}


@pytest.mark.parametrize(
    ("tag", "head", "says"),
    [
        ("v1.2.3", "[1.2.3] - 2027-01-31", None),
        ("v1.2.4", "[1.2.3] - 2027-01-31", r"the tag is v1\.2\.4, .* v1\.2\.3 expected"),
        ("1.2.3", "[1.2.3] - 2027-01-31", "the tag is 1"),
        ("v1.2.3", "[1.2.3] - unreleased", "YYYY-MM-DD"),
        ("v1.2.3", "[1.2.2] - 2027-01-31", r"does not begin with ## \[1\.2\.3\]"),
    ],
)
def test_a_tag_has_to_be_the_version(tag: str, head: str, says: str | None, checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(f"# Changelog\n\n## {head}\n\n## [0.9.0] - 2026-01-01\n")
    with pytest.raises(ReleaseError, match=says) if says else nullcontext():
        check_tag(Source.of(checkout), tag)


# --- Wheel and sdist ------------------------------------------------------------------------------------


def test_an_sdist_is_settled(tmp_path: Path) -> None:
    """The bytes are the same, whoever packed it, when, in which order and under which umask."""
    sums: set[str] = set()
    for name, order, mode in (("one", ("a", "b"), 0o600), ("two", ("b", "a"), 0o664)):
        sdist = tmp_path / name
        with gzip.open(sdist, "wb") as compressed, tarfile.open(fileobj=compressed, mode="w") as files:
            for member in order:
                info = tarfile.TarInfo(member)
                info.size, info.mode, info.uname, info.mtime = 1, mode, name, 5 + len(sums)
                files.addfile(info, io.BytesIO(b"x"))
        distributions._settle(sdist, 1700000000)
        sums.add(hashlib.sha256(sdist.read_bytes()).hexdigest())
        with tarfile.open(sdist) as files:
            assert [(one.name, one.mode, one.mtime) for one in files] == [
                ("a", 0o644, 1700000000),
                ("b", 0o644, 1700000000),
            ]
    assert len(sums) == 1


def packed(checkout: Path, *, lacks: str = "", adds: str = "", mode: int = 0o755) -> distributions.Distributions:
    """Return correct distributions of `checkout`, except for the requested defects."""
    source = Source.of(checkout)
    package = source.files("entrypoint")
    made = distributions.Distributions(checkout / "a.tar.gz", checkout / "a.whl")
    with tarfile.open(made.sdist, "w:gz") as files:
        for name in sorted(distributions._of_sdist(source, package)):
            files.addfile(tarfile.TarInfo(name))
    with zipfile.ZipFile(made.wheel, "w") as archive:
        for name in sorted((distributions._of_wheel(source, package) - {lacks}) | ({adds} - {""})):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, "")
    return made


@pytest.mark.parametrize(
    ("lacks", "adds", "mode", "says"),
    [
        ("entrypoint/a.sql", "", 0o755, "lacks entrypoint/a.sql; see package-data"),
        ("", "tests/test_a.py", 0o755, "does not belong there: tests/test_a.py"),
        ("", "", 0o644, "scripts/entrypoint is not executable"),
        ("", "", 0o755, "the metadata say Name: None"),
    ],
)
def test_what_is_wrong_with_a_wheel(lacks: str, adds: str, mode: int, says: str, checkout: Path) -> None:
    with pytest.raises(ReleaseError, match=says):
        distributions.check(packed(checkout, lacks=lacks, adds=adds, mode=mode), Source.of(checkout))


def test_a_file_that_an_sdist_lacks(checkout: Path) -> None:
    made = packed(checkout)
    source = replace(Source.of(checkout), version="1.2.4")
    with pytest.raises(ReleaseError, match=r"a\.tar\.gz lacks pg_entrypoint-1\.2\.4/CHANGELOG\.md"):
        distributions.check(made, source)


def test_differences_are_named(tmp_path: Path) -> None:
    for folder, texts in (("one", {"a": "1", "b": "2"}), ("two", {"a": "1", "b": "3", "c": "4"})):
        (tmp_path / folder).mkdir()
        for name, text in texts.items():
            (tmp_path / folder / name).write_text(text)
    one, two = (list((tmp_path / folder).iterdir()) for folder in ("one", "two"))
    assert distributions.differences(one, one) == []
    assert distributions.differences(one, two) == ["b", "c"]


# --- Pythons --------------------------------------------------------------------------------------------


def test_a_shim_of_a_python_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\nexit 127\n")
    real = tmp_path / "python3.13"
    real.write_text("#!/bin/sh\necho 3.13\n")
    for program in (shim, real):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = pythons.found(tmp_path)
    assert "3.12" not in found
    assert found["3.13"] == real


# --- The bill of materials ------------------------------------------------------------------------------


def test_libraries_inside_a_wheel(tmp_path: Path) -> None:
    versions = {"openssl": "3.5.9", "libpq": 180006}
    found = {}
    for file in ("libpq-e9b5c9ac.so.5.18", "libcrypto-3a0647ea.so.3", "libsasl2-84219a89.so.3.0.0"):
        path = tmp_path / file
        path.write_text(file)
        component = bom._file(path, versions)
        assert component["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(file.encode()).hexdigest()}]
        found[component["name"]] = component.get("version"), component.get("cpe")
    assert found == {
        "libpq": ("18.6", "cpe:2.3:a:postgresql:postgresql:18.6:*:*:*:*:*:*:*"),
        "libcrypto": ("3.5.9", "cpe:2.3:a:openssl:openssl:3.5.9:*:*:*:*:*:*:*"),
        "libsasl2": (None, None),
    }


@pytest.mark.parametrize(("kind", "valid"), [("library", True), ("thing", False)])
@pytest.mark.every_case
def test_a_bill_is_held_against_the_schema(kind: str, valid: bool, tools: Path) -> None:  # noqa: FBT001 - A case.
    bill = {"bomFormat": "CycloneDX", "specVersion": bom.SPECIFICATION, "version": 1}
    text = json.dumps({**bill, "components": [{"type": kind, "name": "a"}]})
    check = "import sys; from release.bom import validate; validate(sys.stdin.read())"
    done = subprocess.run([tools, "-c", check], input=text, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is valid, done.stderr
    assert ("is not valid CycloneDX 1.6" in done.stderr) is not valid


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a local port and yield the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


# --- The upload -----------------------------------------------------------------------------------------


class Index(BaseHTTPRequestHandler):
    """Accept uploads as a package index does."""

    uploads: list[bytes]

    def do_POST(self) -> None:
        self.uploads.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_wheel_and_sdist_are_uploaded_with_their_attestations(tools: Path, tmp_path: Path) -> None:
    """Run the last command of `make publish`. Real signatures need a forge, which vouches for the signer."""
    dist = tmp_path / "dist"
    dist.mkdir()
    metadata = "Metadata-Version: 2.4\nName: pg-entrypoint\nVersion: 1.2.3\n"
    with zipfile.ZipFile(dist / "pg_entrypoint-1.2.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pg_entrypoint-1.2.3.dist-info/METADATA", metadata)
    with tarfile.open(dist / "pg_entrypoint-1.2.3.tar.gz", "w:gz") as sdist:
        sdist.addfile(tarfile.TarInfo("pg_entrypoint-1.2.3/LICENSE"))
        info = tarfile.TarInfo("pg_entrypoint-1.2.3/PKG-INFO")
        info.size = len(metadata)
        sdist.addfile(info, io.BytesIO(metadata.encode()))
    for file in list(dist.iterdir()):
        (dist / f"{file.name}.publish.attestation").write_text(json.dumps({"of": file.name}))
    for name in ("SHA256SUMS", "pg_entrypoint-1.2.3.cdx.json"):
        (dist / name).write_text("not for the index")
    printed = subprocess.run(["make", "-n", "publish"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (command,) = (line for line in printed.splitlines() if " -m twine upload " in line)
    Index.uploads = []
    with served(Index) as address:
        env = {**os.environ, "TWINE_REPOSITORY_URL": f"{address}/legacy/", "TWINE_USERNAME": "a", "TWINE_PASSWORD": "b"}
        command = command.replace("build/release/bin/python", str(tools))
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sent = [re.findall(rb'filename="([^"]+)"|"of": "([^"]+)"', body) for body in Index.uploads]
    names = sorted({name.decode() for pairs in sent for pair in pairs for name in pair if name})
    assert names == ["pg_entrypoint-1.2.3-py3-none-any.whl", "pg_entrypoint-1.2.3.tar.gz"]
    assert [len(pairs) for pairs in sent] == [2, 2]


# --- The audit ------------------------------------------------------------------------------------------

ADVISORY = {
    "id": "PYSEC-2020-1",
    "aliases": ["CVE-2020-1"],
    "summary": "made up",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.11.3"}]}],
        }
    ],
}


class Osv(BaseHTTPRequestHandler):
    """Answers like OSV's API; it knows one vulnerable package."""

    asked: list[tuple[str, str]]

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, version = query["package"]["name"], query["version"]
        self.asked.append((name, version))
        answer = {"vulns": [ADVISORY]} if (name, version) == ("jinja2", "2.11.0") else {}
        self.send_response(200 if name != "broken" else 503)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def osv() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    Osv.asked = []
    with served(Osv) as address:
        yield f"{address}/v1/query", Osv.asked


def audited(tools: Path, folder: Path, url: str, *pins: str, strict: bool = False) -> tuple[int, str]:
    """Return the exit code and output of an audit of two files: these pins, and a harmless one."""
    for name, lines in (("a.txt", pins), ("b.txt", ("six==1.17.0",))):
        hashed = [f"{pin} --hash=sha256:{'0' * 64}\n" for pin in lines]
        (folder / name).write_text("".join(hashed))
    program = (
        "import sys; from pathlib import Path; from release.audit import audit\n"
        f"files = sorted(Path({str(folder)!r}).glob('*.txt'))\n"
        f"sys.exit(audit(files, {url!r}).report(strict={strict}))"
    )
    done = subprocess.run([tools, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.mark.every_case
@pytest.mark.parametrize("strict", [False, True])
def test_a_vulnerable_pin_fails(strict: bool, tools: Path, tmp_path: Path) -> None:  # noqa: FBT001 - A case.
    with osv() as (url, asked):
        code, output = audited(tools, tmp_path, url, "jinja2==2.11.0", "six==1.16.0", strict=strict)
    assert code == 1
    line, fix = output.splitlines()
    folder = tmp_path.name
    assert line == f"VULNERABLE: {folder}/a.txt: jinja2 2.11.0: PYSEC-2020-1 CVE-2020-1; fixed in 2.11.3"
    assert "make requirements" in fix
    assert sorted(asked) == [("jinja2", "2.11.0"), ("six", "1.16.0"), ("six", "1.17.0")]


def test_pins_without_known_vulnerabilities(tools: Path, tmp_path: Path) -> None:
    with osv() as (url, _):
        code, output = audited(tools, tmp_path, url, "jinja2==3.1.6", strict=True)
    assert (code, output) == (0, "no known vulnerabilities in 2 pinned packages\n")


@pytest.mark.every_case
@pytest.mark.parametrize("reachable", [True, False])
@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 1)])
def test_an_audit_that_got_no_answer_is_no_clean_audit(
    strict: bool,  # noqa: FBT001 - A case.
    code: int,
    reachable: bool,  # noqa: FBT001 - A case.
    tools: Path,
    tmp_path: Path,
) -> None:
    with osv() as (url, _):
        address = url if reachable else "http://127.0.0.1:1/v1/query"
        found, output = audited(tools, tmp_path, address, "broken==1.0", strict=strict)
    assert found == code
    assert output.startswith("NOT AUDITED: ")
    assert "a.txt" in output
    assert "no known vulnerabilities" not in output
