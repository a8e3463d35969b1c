"""One contract, several API servers: the same tests for the sandbox and for every real one that is named."""
