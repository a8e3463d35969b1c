"""What needs attention, one module for each theme; ``causes`` says what follows from what. Pure.

``roles.attention`` calls them all: a function that is not called there, or by one that is, is never shown. What is
wrong with processes, with connections to clusters and with publication is in ``roles`` itself.
"""
