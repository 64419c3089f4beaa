"""The images, built and run by a real engine: `make test-images` runs these tests, `make bench-images` measures.

They are separate from `make test` because they need root, dockerd and Debian's packages. `kit` starts the engines and
builds the base images. After a run, only the base images' archives are left, in ~/.cache/pg-entrypoint-tests.
"""

import sys
from pathlib import Path

# For `python -m tests.images.measure`. Under pytest they are there already (pyproject.toml, pythonpath).
for _path in map(str, Path(__file__).parents[1:3]):
    if _path not in sys.path:
        sys.path.insert(0, _path)
