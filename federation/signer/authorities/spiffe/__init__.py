"""The hub's own SVIDs, as the SPIFFE Workload API gives them."""
