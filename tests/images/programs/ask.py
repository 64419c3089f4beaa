"""Send one HTTP request and print its status and body as JSON: `ask.py URL [BODY [TOKEN]]`; an empty BODY is none.

A separate program, since it has to run on the network of the engine's containers.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request


def main() -> None:
    """Ask. No answer at all is status 0."""
    url, body, token = (*sys.argv[1:], "", "")[:3]
    request = urllib.request.Request(url, data=body.encode() or None)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            status, text = response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    except OSError as error:
        status, text = 0, str(error)
    print(json.dumps({"status": status, "body": text}))


if __name__ == "__main__":
    main()
