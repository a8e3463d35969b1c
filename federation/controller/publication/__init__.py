"""How the bundle gets out to every namespace, and the reading back of what is really there."""
