"""Where anchors come from: pinned files, the authority's intermediates, and what clusters had before."""
