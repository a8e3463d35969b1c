"""Vault and OpenBao as the place where the intermediate's key lives: the PKI engine, and the Transit engine."""
