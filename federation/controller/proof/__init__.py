"""Whether every ordered pair of clusters validates: probe leaves, real handshakes, the matrix."""
