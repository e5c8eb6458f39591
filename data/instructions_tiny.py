"""The tiny requests of `instructions`: a few words, for models with a tiny vocabulary."""

import random

from r1lab.data.knights_knaves import NAMES

WORDS = (*NAMES, "knight", "knave")
TINY = (
    "starts_with",
    "keyword_count",
    "keywords",
    "num_words",
    "forbidden_words",
    "ends_with",
)  # in this order
TIMES = {1: "once", 2: "twice", 3: "three times", 4: "four times", 5: "five times"}
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()


def draw_tiny(kinds: list[str], rng: random.Random, names: int = len(NAMES)) -> tuple[str, list[dict], str, str]:
    """A request with these kinds of constraints: the prompt, the constraints, a thinking and an answer.

    The answer meets the constraints unless they contradict each other, which the caller checks. The first `names`
    names are used.
    """
    pool = rng.sample((*NAMES[:names], "knight", "knave"), 8)
    order = sorted(kinds, key=TINY.index)
    required, phrases = [], []
    for kind in order:
        word = pool.pop()
        if kind == "keyword_count":
            n = rng.randint(1, 5)
            required.append({"kind": kind, "keyword": word, "exactly": n})
            phrases.append(f"say {word} {TIMES[n]}")
        elif kind == "keywords":
            words = [word, pool.pop()]
            required.append({"kind": kind, "words": words})
            phrases.append(f"name {' and '.join(words)}")
        elif kind == "forbidden_words":
            required.append({"kind": kind, "words": [word]})
            phrases.append(f"do not say {word}")
        elif kind == "num_words":
            bound = rng.choice(["exactly", "at_most", "at_least"])
            n = rng.randint(2, 12)
            required.append({"kind": kind, bound: n})
            phrases.append(f"use {bound.replace('_', ' ')} {NUMBERS[n]} words")
        elif kind == "starts_with":
            required.append({"kind": kind, "prefix": word})
            phrases.append(f"start with {word}")
        else:
            required.append({"kind": kind, "suffix": word})
            phrases.append(f"end with {word}")
    prompt = ", ".join(phrases[:-1]) + (", then " if len(phrases) > 1 else "") + phrases[-1] + "."
    return prompt[0].upper() + prompt[1:], required, say(required), _answer(required, rng.choice(pool))


def say(required: list[dict]) -> str:
    """The thinking: the constraints as notes, in their order.

    >>> say([{"kind": "keyword_count", "keyword": "Zoey", "exactly": 3}, {"kind": "ends_with", "suffix": "knave"}])
    'Zoey three times, knave last.'
    """
    return ", ".join(_note(constraint) for constraint in required) + "."


def _note(constraint: dict) -> str:
    match constraint:
        case {"keyword": word, "exactly": n}:
            return f"{word} {TIMES[n]}"
        case {"kind": "keywords", "words": words}:
            return " and ".join(words)
        case {"words": [word]}:
            return f"no {word}"
        case {"prefix": word}:
            return f"{word} first"
        case {"suffix": word}:
            return f"{word} last"
    bound, n = next((bound, n) for bound, n in constraint.items() if bound != "kind")
    return f"{bound.replace('_', ' ')} {NUMBERS[n]} words"


def _answer(required: list[dict], filler: str) -> str:
    """Words that meet the constraints, if any do: the first, the named ones, fillers, the last."""
    by_kind = {constraint["kind"]: constraint for constraint in required}
    first = [by_kind["starts_with"]["prefix"]] if "starts_with" in by_kind else []
    last = [by_kind["ends_with"]["suffix"]] if "ends_with" in by_kind else []
    middle = []
    if counted := by_kind.get("keyword_count"):
        middle += [counted["keyword"]] * counted["exactly"]
    middle += by_kind.get("keywords", {}).get("words", [])
    number = by_kind.get("num_words", {})
    least = number.get("exactly", number.get("at_least", 1))
    middle += [filler] * (least - len(first + middle + last))
    return " ".join(first + middle + last)
