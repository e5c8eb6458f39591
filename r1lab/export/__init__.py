"""`r1lab export`: a recipe's data, environment and rewards as a package for other trainers."""
