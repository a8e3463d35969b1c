"""What survives, and the one place where the roles report to each other."""
