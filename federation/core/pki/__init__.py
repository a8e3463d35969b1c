"""Certificates, requests and chains as values and rules; nothing here opens a file, a socket or a clock.

``pem`` and ``certificate`` make values out of bytes, ``requests`` says what a CSR may hold, ``leaf`` builds what is
signed and says for how long it may live, ``chain`` and ``path_rules`` validate paths, ``verification`` judges what a
back end returned and what an operator configured, ``development`` makes throw-away authorities, ``der`` is the little
encoding that the request gate and the leaf template need.
"""
