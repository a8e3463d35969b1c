"""Whole clusters in a box: an embedded Kubernetes API over TLS and mesh workloads, for the demo and for the tests."""
