"""What the mesh trusts: anchors and the deterministic bundle made of them."""
