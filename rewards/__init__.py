"""Reward functions. Import them as `r1lab.rewards`."""

if __name__ != "r1lab.rewards":  # one module, one name
    raise ImportError("import r1lab.rewards, not rewards")
