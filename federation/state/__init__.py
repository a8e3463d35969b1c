"""What survives, and the one place where the roles tell each other things."""
