"""Where a signature comes from: one small interface, and one module for each kind of back end."""
