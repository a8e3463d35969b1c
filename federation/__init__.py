"""The federation hub: one trust for many Kubernetes clusters that run Istio.

Rooms, from the ground up: ``core`` (pure), ``clusters``, ``state`` and ``runtime`` (edges that both roles use),
``signer`` and ``controller`` (the two roles, which never import one another), ``status`` (reads and changes nothing),
``cli`` (one file a verb) and ``sandbox`` (whole clusters in a box, for the demo and the tests only).
"""
