"""Rows for the environment desk: questions about ages and friends, which only its tools know."""

import random

from r1lab.data.generate import choices, different
from r1lab.data.knights_knaves import NAMES, draw_names
from r1lab.errors import UserError


def desk(
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    hops: int | list[int] | tuple[int, ...] = (0, 1),
    terms: int | list[int] | tuple[int, ...] = 1,
    people: int = 5,
    names: int = len(NAMES),
) -> list[dict]:
    """Questions for the environment `desk`, such as how old the friend of somebody is.

    Train and test never share a question about the same people: the split is a hash of both, the same for every seed.

    Args:
        split: `"train"`, or `"test"`, one question in five.
        size: The number of rows. Default: 1,000.
        seed: The same seed gives the same rows.
        hops: How many friends a question follows, or a list of such counts, used in turn.
        terms: How many ages are added, or a list of such counts, used in turn.
        people: The number of people.
        names: The number of first names to sample from; fewer are easier for a small model.

    Returns:
        Rows with `prompt`, `answer` (None: it depends on the episode), `task` (`desk/1hops`, or `desk/1hops+` with
            several terms), `people`, `start` (the people that the question begins with) and `hops`.

    Raises:
        UserError: There are fewer questions than `size`.

    >>> desk(size=1, hops=1, people=3)[0]["prompt"]
    'Michael, Daniel, and Owen are here. How old is the friend of Daniel?'
    """
    followed, added = choices(hops, "desk: hops", at_least=0), choices(terms, "desk: terms")
    if people < max(2, *added):
        raise UserError(f"desk: people: {people}: should be at least {max(2, *added)}")
    kinds = [(hop, term) for term in added for hop in followed]
    rng = random.Random(f"desk/{seed}/{split}")

    def draw(count: int) -> tuple[object, dict]:
        hop, term = kinds[count % len(kinds)]
        here = draw_names(rng, people, names)
        start = rng.sample(here, term)
        asked = [f"{'the friend of ' * hop}{person}" for person in start]
        question = f"How old is {asked[0]}?" if term == 1 else f"How old are {' and '.join(asked)} together?"
        row = {
            "prompt": f"{', '.join(here[:-1])}, and {here[-1]} are here. {question}",
            "answer": None,
            "task": f"desk/{hop}hops{'+' * (term > 1)}",
            "people": here,
            "start": start,
            "hops": hop,
        }
        return (tuple(sorted(here)), tuple(sorted(start)), hop), row

    hint = "raise names or people, or lower size (eval.size in an evaluation)"
    return different(draw, name="desk", split=split, size=size, hint=hint)
