"""What the hub answers for: API, metrics and page. Reads the roles' documents, changes nothing."""
