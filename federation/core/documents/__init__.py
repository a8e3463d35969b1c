"""What the roles report to one another, as typed documents. One writer each; readers pass over unknown fields.

``trust.py`` holds what is published and found, ``signer.py`` what a signer writes, ``controller.py`` what a
controller writes, ``encoding.py`` their bytes, ``keys.py`` under which key each is, who writes and who reads it, and
what to do about a damaged one. The record of a rotation and the directives are ``core/rotation``'s.

What processes that are gone have left is removed by the controller that leads, once nothing depends on it. Times are
seconds since the epoch (UTC) as floats, so that documents compare without parsing; the status API, which shows some of
these structs as they are, writes those of type ``Instant`` in RFC 3339.
"""
