"""Sphinx's configuration for the site."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import entrypoint

project = "pg-entrypoint"
version = release = entrypoint.__version__
author = "the authors of pg-entrypoint"
project_copyright = ""
extensions = ["myst_parser"]
root_doc = "index"
source_suffix = {".md": "markdown"}
# As forges make them.
myst_heading_anchors = 6
# A source file that an example shows need not be one that the highlighter takes.
suppress_warnings = ["misc.highlighting_failure"]
# What is only indented is a terminal's as often as not.
highlight_language = "text"
html_theme = "furo"
html_title = f"pg-entrypoint {entrypoint.__version__}"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_use_index = False
html_theme_options: dict[str, list[str]] = {"top_of_page_buttons": []}
