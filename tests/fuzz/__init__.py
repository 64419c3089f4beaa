"""Random SQL: what a text's statements are by our two readings, and by a real server.

`texts` makes and changes texts, `judge` asks the server and compares, `hunt` does so for a while and makes what it
found small. The suite tries the texts of `corpus/` and some seconds of random ones; `make fuzz` goes on for longer.
"""

import sys
from pathlib import Path

# For `python -m tests.fuzz`; under pytest these are there already (pyproject.toml, pythonpath).
for _path in map(str, Path(__file__).parents[1:3]):
    if _path not in sys.path:
        sys.path.insert(0, _path)
