"""Trust's way: sources, bundle, publication, read-back, proof. Holds no key."""
