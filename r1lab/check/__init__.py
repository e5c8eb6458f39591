"""`r1lab check`: what is known of a recipe before it runs."""
