"""General requests with constraints that a rule can check, each with an answer that meets them all."""

import json
import random
from typing import Literal

from r1lab.data import instructions_text as text
from r1lab.data.generate import choices, different
from r1lab.data.instructions_tiny import TINY, draw_tiny
from r1lab.data.knights_knaves import NAMES, complete
from r1lab.errors import UserError
from r1lab.rewards.constraints import unmet
from r1lab.text import did_you_mean


def instructions(
    *,
    split: Literal["train", "test"] = "train",
    size: int | None = None,
    seed: int = 0,
    kinds: list[str] | None = None,
    constraints: int | list[int] | tuple[int, ...] = (1, 2, 3),
    tiny: bool = False,
    names: int = len(NAMES),
    solution: bool = False,
) -> list[dict]:
    """Requests such as "Write about tea. Use exactly 3 sentences and no commas.", after IFEval (arXiv:2311.07911).

    No request contradicts itself: an answer that meets all constraints was made and checked for each. Train and test
    never share a request, even with its constraints in another order: the split is a hash of its topic and
    constraints, the same for every seed.

    Args:
        split: `"train"`, or `"test"`, one request in five.
        size: The number of requests. Default: 1,000; a smaller size gives the first of them.
        kinds: The kinds of constraints to sample from, of those in `r1lab.rewards.constraints`. Default: all (for tiny
            requests, all that those have).
        constraints: The number of constraints of a request, or a list of such counts, used in turn.
        tiny: Requests of under 25 words about first names, knights and knaves ("Say Zoey three times, then end with
            knave."), with completions of at most 40 words, for models of a million parameters.
        names: How many first names tiny requests sample from, of those of `knights_knaves`; at least 6.
        solution: Adds the `completion` that was made, for SFT. It follows the rules and has little content: it teaches
            the format, not what a good answer is.

    Returns:
        Rows with `prompt`, `answer` (None), `task` (`instructions/2constraints`), `constraints` (a list of dicts), and
            `completion` if `solution` is set. For the reward `instruction`.

    Raises:
        UserError: A kind is unknown, or the kinds give fewer than `size` requests.

    >>> row = instructions(size=1, tiny=True, kinds=["keyword_count"], constraints=1, solution=True)[0]
    >>> row["prompt"], row["constraints"]
    ('Say Owen four times.', [{'kind': 'keyword_count', 'keyword': 'Owen', 'exactly': 4}])
    >>> row["completion"]
    '<think> Owen four times. </think>\\n<answer> Owen Owen Owen Owen </answer>'
    """
    have = TINY if tiny else text.KINDS
    wanted = list(have) if kinds is None else list(kinds)
    for kind in wanted:
        if kind not in have:
            hint = did_you_mean(kind, have, otherwise=f"; there are: {', '.join(have)}")
            raise UserError(f"instructions: kinds: {kind}: no such kind{' of tiny requests' if tiny else ''}{hint}")
    if names < 6:
        raise UserError(f"instructions: names: {names}: should be at least 6")
    counts = choices(constraints, "instructions: constraints")
    if not wanted or max(counts) > len(wanted):
        raise UserError(
            f"instructions: constraints: {max(counts)} of {len(wanted)} kinds: list more kinds, or lower constraints"
        )
    rng = random.Random(f"instructions/{'tiny/' if tiny else ''}{seed}/{split}")

    def draw(count: int) -> tuple[object, dict] | None:
        chosen = rng.sample(wanted, counts[count % len(counts)])
        prompt, required, thinking, answer = draw_tiny(chosen, rng, names) if tiny else text.draw_request(chosen, rng)
        completion = complete(thinking, answer)
        if any(unmet(answer, constraint) for constraint in required):  # contradictory, or too hard for the generator
            return None
        if tiny and (len(prompt.split()) >= 25 or len(completion.split()) > 40):
            return None
        row = {
            "prompt": prompt,
            "answer": None,
            "task": f"instructions/{len(required)}constraints",
            "constraints": required,
        }
        if solution:
            row["completion"] = completion
        topic = "" if tiny else text.topic_of(prompt)
        return (topic, tuple(sorted(json.dumps(constraint, sort_keys=True) for constraint in required))), row

    hint = "list more kinds, allow more constraints, or lower size (eval.size in an evaluation)"
    return different(draw, name="instructions", split=split, size=size, hint=hint)
