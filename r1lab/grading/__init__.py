"""Completions to scores: reading answers, comparing them, and grading that cannot hang a run."""
