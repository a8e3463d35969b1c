"""AWS Private CA, which issues from a request, and AWS KMS, which signs what the hub has built.

``client.py`` makes the calls and says what their failures mean, ``credentials.py`` who the hub is there. Only this
package imports aiobotocore, which the extra ``aws`` installs.
"""
