"""The site of the documentation: `make docs`. Pages are those of the repository, read where they lie."""

from __future__ import annotations

project = "Federation hub"
author = "The maintainers of the federation hub"
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "charts/federation-hub/README.md",
    "manifests/README.md",
    "manifests/member/guard/README.md",
    "manifests/passthrough/README.md",
    "tests/last_version/README.md",
]
exclude_patterns = ["docs/conf.py"]
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 6
"""As GitHub makes them, so that a link into a page works in both places."""
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["misc.highlighting_failure"]
"""Examples leave parts out by three dots."""
html_theme = "furo"
html_title = "Federation hub"
html_show_sphinx = False
html_copy_source = False
highlight_language = "none"
linkcheck_ignore = [r"https?://(localhost|127\.).*", r"https://[^/]*example\.(org|com).*"]
