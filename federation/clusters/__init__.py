"""What the hub knows of member clusters: the running members, health, checks before one joins, what Istio is there."""
