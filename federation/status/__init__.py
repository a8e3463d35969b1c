"""What the hub answers for: the API, its OpenAPI, metrics and the page. Reads, and changes nothing."""
