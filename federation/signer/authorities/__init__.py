"""Where a signature comes from: one small interface, back ends of each kind, and the set of authorities in use."""
