"""Certificates, requests and chains as values and rules; nothing here opens a file, a socket or a clock.

``pem`` and ``certificate`` make values out of bytes, ``requests`` says what a CSR may hold, ``leaf`` builds
what is signed, ``validity`` says for how long, ``chain`` validates paths and shapes the reply, ``issued`` and
``authority_check`` judge what a back end returned and what an operator configured, ``development`` makes
throw-away authorities, ``der`` is the little encoding that the request gate and the leaf template need.
"""
