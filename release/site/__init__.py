"""The documentation as a site: `make site` builds it into build/site, `make publish-site` pushes it to a branch.

`nav` reads the order of the pages from docs/README.md; `staging` lays the pages out for Sphinx, whose configuration is
`conf`; `links` looks at what came out; `publish` puts it into a branch. Why it is Sphinx:
docs/decisions/0057-the-site-is-built-by-sphinx.md.
"""
