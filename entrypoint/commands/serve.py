"""`serve`: the status service over HTTP."""

from __future__ import annotations

import sys

from entrypoint.errors import ConfigurationError
from entrypoint.settings.service import read_service_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SUMMARY = "serve the status over HTTP: API, badge, metrics, page"
DESCRIPTION = """\
Serve the status over HTTP until SIGTERM: JSON for programs, metrics for Prometheus, a badge, and a page for people.
Requires: pip install 'pg-entrypoint[serve]'. STATUS_HOST and STATUS_PORT set the address, and STATUS_TOKEN
or STATUS_TOKEN_FILE who has access."""
EXAMPLE = "STATUS_HOST=0.0.0.0 STATUS_TOKEN_FILE=/run/secrets/status_token entrypoint serve"

_INSTALL = "Install them with: pip install 'pg-entrypoint[serve]'."
_IN_THE_FOLDER = (
    "The self-contained folder cannot take packages. Run the service from an image that has them (docs/image.md, "
    "--target full), or where Python is: pip install 'pg-entrypoint[serve]'."
)


def add_options(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: the environment configures it."""


def execute(_arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve until a signal."""
    settings, service = read_service_settings(environ)
    try:
        from entrypoint.service.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "entrypoint":
            raise
        raise ConfigurationError(
            f"serve needs packages that are not installed, such as {error.name}",
            remedy=_IN_THE_FOLDER if getattr(sys, "frozen", False) else _INSTALL,
        ) from None
    serve(settings, service)
    return 0
