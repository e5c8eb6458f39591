"""Rewards with the faults that users of reward functions have told of."""

import re


def boxed_only(completions, *, answer, **columns):
    """Reads LaTeX alone, as TRL's and Open-R1's accuracy rewards do."""
    return [float(f"\\boxed{{{gold}}}" in text) for text, gold in zip(completions, answer)]


def one_for_what_it_cannot_parse(completions, *, answer, **columns):
    """Gives 1 where the gold is no number."""
    return [1.0 if not gold.isdigit() else float(f"<answer> {gold} <" in t) for t, gold in zip(completions, answer)]


def empty_wins(completions, *, answer, **columns):
    """An empty answer is in every gold answer."""
    found = [re.search(r"<answer>(.*?)</answer>", text, re.DOTALL) for text in completions]
    return [float(bool(m) and m[1].strip() in gold) for m, gold in zip(found, answer)]


def anywhere(completions, *, answer, **columns):
    """The gold answer anywhere in the text is right, among others too."""
    return [float(gold in text) for text, gold in zip(completions, answer)]


def first_answer(completions, *, answer, **columns):
    """Takes the first answer, where the evaluation takes the last."""
    found = [re.search(r"<answer>(.*?)</answer>", text, re.DOTALL) for text in completions]
    return [float(bool(m) and m[1].strip() == gold) for m, gold in zip(found, answer)]


def swallows(completions, *, answer, **columns):
    """Takes every failure for a wrong answer."""
    try:
        return [float(text.answer == gold) for text, gold in zip(completions, answer)]
    except Exception:
        return [0.0] * len(completions)


def one_for_all(completions, **columns):
    """One value for the whole batch."""
    return [sum("<answer>" in text for text in completions) / len(completions)]


def tags(completions, **columns):
    """Pays for each tag, however many."""
    return [float(text.count("<answer>")) for text in completions]


def always_one(completions, **columns):
    """Gives everything the same."""
    return [1.0 for text in completions]


def no_answer_no_luck(completions, *, answer, **columns):
    """Takes for granted that there is an answer."""
    found = [re.search(r"<answer>(.*?)</answer>", text) for text in completions]
    return [float(m[1].strip() == gold) for m, gold in zip(found, answer)]


def not_a_number(completions, *, answer, **columns):
    """Divides by the length of what is not there."""
    right = [float(f"<answer> {gold} <" in text) for text, gold in zip(completions, answer)]
    return [score if text.strip() else float("nan") for text, score in zip(completions, right)]


def hangs(completions, *, answer, **columns):
    """Never comes back from an empty completion."""
    for text in completions:
        while not text.strip():
            pass
    return [float(f"<answer> {gold} <" in text) for text, gold in zip(completions, answer)]
