"""Who is asking: tokens checked by the cluster's published keys and a watched cache, or by its TokenReview.

``tokens`` and ``jwks`` are pure: what a service account token says, and whether a key signed it.
``token_keys`` keeps one cluster's keys, ``bound_objects`` looks up what a token is bound to,
``token_review`` asks the API server, and ``attestor`` decides between them. A token is a secret: none is
ever part of a message, a log or an error.
"""
