"""A run directory: how it is prepared and locked, and the files in it."""
