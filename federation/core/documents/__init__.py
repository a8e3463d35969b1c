key                          written by          holds
===========================  ==================  =====================================================================
``generations/<number>``     controller leader   one generation of trust, never changed once written
``current``                  controller leader   number and digest of the generation in force
``controllers/<replica>``    that controller     what it sees: clusters, publication, proof, proposals
``signers/<replica>``        that signer         what it uses and how it fares
``horizons/<replica>``       that signer         until when its leaves may live, written ahead of issuing
``callers/<replica>``        that signer         which pods it has issued certificates to
``pins/<replica>``           that signer         which anchors in force its own configuration pins, or pinned
``rotation``                 controller leader   the rotation under way or the last one, and quarantines
``directives``                   controller leader   what signers are to sign with, and where they are to stop
``takeovers``                controller leader   since when the hub has issued for each cluster
``operations/<id>``          any controller      what an operator asked for, and what became of it
``hub``                      controller leader   this hub's identity, drawn once
``proposals/<cluster>``      controller leader   anchors found in that cluster, open and dismissed
``proposals/_authorities``   controller leader   likewise, of roots that a back end has named
===========================  ==================  =====================================================================
=======
"""What the roles report to one another, as typed documents. One writer each; readers pass over unknown fields.

``trust.py`` holds what is published and found, ``signer.py`` what a signer writes, ``controller.py`` what a
controller writes, ``encoding.py`` their bytes, ``keys.py`` under which key each is, who writes and who reads it, and
what to do about a damaged one. The record of a rotation and the directives are ``core/rotation``'s.

What processes that are gone have left is removed by the controller that leads, once nothing depends on it. Times are
seconds since the epoch (UTC) as floats, so that documents compare without parsing; the status API, which shows some of
these structs as they are, writes those of type ``Instant`` in RFC 3339.
"""
