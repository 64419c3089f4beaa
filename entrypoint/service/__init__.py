"""The status service over HTTP, an optional part: `pip install 'pg-entrypoint[serve]'`. Only `serve` imports it."""
