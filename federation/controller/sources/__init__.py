"""Where anchors come from: pinned files, the authority's intermediates, and what clusters held before."""
