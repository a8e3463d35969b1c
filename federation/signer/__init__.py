"""A certificate's way: door, attestation, policy, authority, check of what came back, reply, account."""
