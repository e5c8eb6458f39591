"""`r1lab doctor`: checks that this machine can run r1lab."""
