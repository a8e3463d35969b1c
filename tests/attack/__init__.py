"""`make attack`: honest callers and honest clusters, measured at rest and under each attack on one running hub."""
