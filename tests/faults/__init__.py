"""Phases against faults: what a start does when something goes wrong at a chosen point.

`matrix` has the phases, the faults, and which of them meet. `stage` is where they meet. `invariants` has what must hold
afterwards, whatever happened. The suite plays each cell once (`test_matrix`); `python -m tests.faults.soak` plays them
at random for as long as you like.
"""

import sys
from pathlib import Path

# For `python -m tests.faults.soak`. Under pytest they are there already (pyproject.toml, pythonpath).
for _path in map(str, Path(__file__).parents[1:3]):
    if _path not in sys.path:
        sys.path.insert(0, _path)
