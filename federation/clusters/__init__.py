"""A member cluster at the edge: credentials, session, reflector, health, preflight, running members."""
