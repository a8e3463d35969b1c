"""A member cluster at the edge: credentials, session, reflector, health, preflight, and the running members."""
