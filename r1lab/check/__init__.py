"""`r1lab check`: checks a recipe before it runs."""
