"""What an operator writes: ``clusters.toml`` as frozen values, with every limit and timeout in one place."""
