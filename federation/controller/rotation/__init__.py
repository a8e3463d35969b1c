"""The rotation at the edge: the record in the store, the world observed, operations carried out, effects written."""
