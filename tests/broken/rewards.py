"""Rewards with faults that users of reward functions have reported."""

import re


def boxed_only(completions, *, answer, **columns):
    """Reads only LaTeX, as TRL's and Open-R1's accuracy rewards do."""
    return [float(f"\\boxed{{{gold}}}" in text) for text, gold in zip(completions, answer)]


def one_for_what_it_cannot_parse(completions, *, answer, **columns):
    """Gives 1 if the gold answer is not a number."""
    return [1.0 if not gold.isdigit() else float(f"<answer> {gold} <" in t) for t, gold in zip(completions, answer)]


def empty_wins(completions, *, answer, **columns):
    """Accepts an empty answer, because every gold answer contains it."""
    found = [re.search(r"<answer>(.*?)</answer>", text, re.DOTALL) for text in completions]
    return [float(bool(m) and m[1].strip() in gold) for m, gold in zip(found, answer)]


def anywhere(completions, *, answer, **columns):
    """Accepts the gold answer anywhere in the text, among others too."""
    return [float(gold in text) for text, gold in zip(completions, answer)]


def first_answer(completions, *, answer, **columns):
    """Reads the first answer, although the evaluation reads the last."""
    found = [re.search(r"<answer>(.*?)</answer>", text, re.DOTALL) for text in completions]
    return [float(bool(m) and m[1].strip() == gold) for m, gold in zip(found, answer)]


def swallows(completions, *, answer, **columns):
    """Treats every failure as a wrong answer."""
    try:
        return [float(text.answer == gold) for text, gold in zip(completions, answer)]
    except Exception:
        return [0.0] * len(completions)


def one_for_all(completions, **columns):
    """One value for the whole batch."""
    return [sum("<answer>" in text for text in completions) / len(completions)]


def tags(completions, **columns):
    """Rewards each tag, regardless of how many there are."""
    return [float(text.count("<answer>")) for text in completions]


def always_one(completions, **columns):
    """Gives every completion the same."""
    return [1.0 for text in completions]


def no_answer_no_luck(completions, *, answer, **columns):
    """Assumes that there is an answer."""
    found = [re.search(r"<answer>(.*?)</answer>", text) for text in completions]
    return [float(m[1].strip() == gold) for m, gold in zip(found, answer)]


def not_a_number(completions, *, answer, **columns):
    """Returns NaN for an empty completion."""
    right = [float(f"<answer> {gold} <" in text) for text, gold in zip(completions, answer)]
    return [score if text.strip() else float("nan") for text, score in zip(completions, right)]


def hangs(completions, *, answer, **columns):
    """Never returns for an empty completion."""
    for text in completions:
        while not text.strip():
            pass
    return [float(f"<answer> {gold} <" in text) for text, gold in zip(completions, answer)]
