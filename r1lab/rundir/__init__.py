"""Run directories: how they are prepared and locked, and the files in them."""
