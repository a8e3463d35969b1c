"""What Istio fixes for the hub: CA protocol, names of istiod, settings, and the files that operators apply. Pure."""
