"""The federation hub: one trust for many Kubernetes clusters that run Istio.

Rooms, from the ground up: ``core`` (pure), ``files`` (disks that may hang), ``kubernetes`` (one API server as a
client sees it), ``clusters``, ``state`` and ``runtime`` (edges that both roles use), ``signer`` and ``controller``
(the two roles, which never import one another), ``status`` (reads and changes nothing) and ``cli`` (one file for each
verb). Whole clusters in a box, for the demo and the tests, are a package of their own, ``federation_sandbox``.
"""
