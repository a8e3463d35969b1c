"""The rotation at the edge: the record kept in the store, the world observed, operators heard, effects written."""
