"""The images, built and run by a real engine: what `make test-images` runs, and what `make bench-images` measures.

Apart from `make test`, because this needs root, dockerd and Debian's packages. `kit` starts the engines and makes the
base images; nothing of them survives the run but the base images' archives, in ~/.cache/pg-entrypoint-tests.
"""

import sys
from pathlib import Path

# For `python -m tests.images.measure`; under pytest these are there already (pyproject.toml, pythonpath).
for _path in map(str, Path(__file__).parents[1:3]):
    if _path not in sys.path:
        sys.path.insert(0, _path)
