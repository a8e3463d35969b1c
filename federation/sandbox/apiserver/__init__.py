"""An embedded Kubernetes API server: the part of the API that the hub and its workloads meet, and faults on demand.

What keeps it honest is ``tests/contract``: one suite that passes here and on real kube-apiservers alike.
"""
