"""How a request comes in: protocols that end in ``issuance``, and thin shells of transport around them."""
