"""The page /admin in a real Chromium.

`states` has frozen snapshots, one for each way the page can look. `page_server` serves one over HTTP without a
database. `chromium` is the browser. `screenshots` takes the pictures in docs/admin-page.md.
"""

import sys
from pathlib import Path

# For `python -m tests.browser.screenshots`. Under pytest they are there already (pyproject.toml, pythonpath).
for _path in map(str, Path(__file__).parents[1:3]):
    if _path not in sys.path:
        sys.path.insert(0, _path)
