"""A key in a PKCS#11 token: ``pair`` is the face; one thread (``tokens``) runs all that calls the module."""
