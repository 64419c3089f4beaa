"""The real migration tools, each with migrations of its own: what `make test-tools` runs.

Apart from `make test`, because the tools come from five registries. `install.py` gets them, `kit.py` and what is beside
it says how each is worked; `histories.py` lets them make the odd states that tests/fixtures/histories/ keeps.
"""

import sys
from pathlib import Path

# For `python -m tests.tools.install`; under pytest these are there already (pyproject.toml, pythonpath).
for _path in map(str, Path(__file__).parents[1:3]):
    if _path not in sys.path:
        sys.path.insert(0, _path)

HOME = Path(__file__).parents[2] / ".tools"
"""Where the tools are installed."""
