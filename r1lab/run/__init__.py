"""`r1lab run`: the stages of a recipe one after another, each in a process of its own, shown while they run."""
