"""The real migration tools, each with its own migrations: what `make test-tools` runs.

They are separate from `make test` because the tools come from five registries. `install.py` installs them. `kit.py` and
the modules next to it describe how each is used. `histories.py` lets them create the odd states in
tests/fixtures/histories/.
"""

import sys
from pathlib import Path

# For `python -m tests.tools.install`. Under pytest they are there already (pyproject.toml, pythonpath).
for _path in map(str, Path(__file__).parents[1:3]):
    if _path not in sys.path:
        sys.path.insert(0, _path)

HOME = Path(__file__).parents[2] / ".tools"
"""Where the tools are installed."""
