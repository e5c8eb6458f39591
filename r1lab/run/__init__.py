"""`r1lab run`: runs the stages of a recipe in order, each in its own process, and shows their progress."""
