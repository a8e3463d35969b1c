"""``[signer.authority]`` and ``[signer.successor]``: settings, one module for each kind of back end."""
