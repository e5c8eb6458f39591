"""Grading that cannot hang the run: worker processes with deadlines, and a sandbox for programs."""
