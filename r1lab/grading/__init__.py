"""From completions to scores: extracting answers, comparing them, and grading that cannot hang a run."""
