"""What needs attention, one module for each theme; ``causes`` says what follows from what. Pure."""
