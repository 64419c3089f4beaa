"""Renew the files of pinned requirements beside this one: `make requirements`.

image.txt is what the image has, full.txt what `--target full` has beside it, build.txt what builds the wheel,
folder.txt what makes the self-contained folder of it, release.txt what makes and checks a release, site.txt what builds
the site of the documentation; each with the hashes of all files that the index has for a version, and so for every
Python and processor. The examples in Python have files of the same kind.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PYPROJECT = HERE.parent / "pyproject.toml"
EXAMPLES = sorted(HERE.parent.glob("examples/*/requirements.in"))

# What rich asks for, for highlighting source code and rendering Markdown. This program uses its tables and bars, which
# need neither; with bytecode that is 9 MB. tests/test_requirements.py and the images' tests hold it to that.
LEFT_OUT = ("pygments", "markdown-it-py", "mdurl")
# Only on Windows.
FOREIGN = ("tzdata", "colorama")
# The packer, whose parts the folder consists of: docs/decisions/0017-a-folder-by-cx-freeze.md.
PACKER = "cx_Freeze>=8.7,<9"
# docs/decisions/0057-the-site-is-built-by-sphinx.md.
SITE = ("sphinx>=9,<10", "myst-parser>=5,<6", "furo>=2025.12")


def main() -> int:
    """Return the exit code: 1 if one of them could not be resolved."""
    project = tomllib.loads(PYPROJECT.read_text())
    python = project["project"]["requires-python"].removeprefix(">=")
    common = ["--universal", "--python-version", python, "--generate-hashes", "--no-strip-markers", "--no-annotate"]
    common += ["--custom-compile-command", "make requirements", "--upgrade", "--quiet", "--no-config"]
    complete = list(common)
    for name in (*LEFT_OUT, *FOREIGN):
        common += ["--no-emit-package", name]
    build = "\n".join(project["build-system"]["requires"])
    image, full, release = (HERE / f"{name}.txt" for name in ("image", "full", "release"))
    return (
        _compile(["-", *common], HERE / "build.txt", build)
        or _compile(["-", *common], HERE / "folder.txt", PACKER)
        or _compile(["-", *complete], HERE / "site.txt", "\n".join(SITE))
        or _compile([PYPROJECT, *common], image)
        or _compile([PYPROJECT, "--extra", "serve", "--constraint", image, *common], full)
        or _compile([PYPROJECT, "--extra", "release", "--constraint", full, *complete], release)
        or next((code for path in EXAMPLES if (code := _compile([path, *complete], path.with_suffix(".txt")))), 0)
    )


def _compile(arguments: list[str | Path], output: Path, source: str | None = None) -> int:
    command = [sys.executable, "-m", "uv", "pip", "compile", *arguments, "--output-file", output]
    return subprocess.run(command, input=source, text=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
