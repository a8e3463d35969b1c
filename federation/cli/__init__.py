"""The command line: each verb is the module of its name; what several need, or one has too much of, is beside them."""
