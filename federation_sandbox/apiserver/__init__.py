"""An embedded Kubernetes API server: what the hub and its workloads meet of the API, and faults on demand.

What keeps it honest is ``tests/contract``: one suite that passes here and on real kube-apiservers alike.
"""
