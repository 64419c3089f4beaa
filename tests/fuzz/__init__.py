"""Random SQL: where its statements begin and end, according to both of our parsers and a real server.

`texts` creates and changes texts. `judge` asks the server and compares. `hunt` does that for a while, and minimizes
what it finds. The suite tries the texts in `corpus/` and random ones for some seconds; `make fuzz` takes longer.
"""

import sys
from pathlib import Path

# For `python -m tests.fuzz`. Under pytest they are there already (pyproject.toml, pythonpath).
for _path in map(str, Path(__file__).parents[1:3]):
    if _path not in sys.path:
        sys.path.insert(0, _path)
