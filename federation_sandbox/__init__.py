"""Whole clusters in a box, for the demo and the tests: an embedded Kubernetes API and mesh workloads."""
