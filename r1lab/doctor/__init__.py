"""`r1lab doctor`: what of this machine stands in the way of a run."""
