"""A certificate's way: listener, attestation, policy, authority, check of what came back, reply, account."""
