"""What is known before a run: `r1lab check`."""
