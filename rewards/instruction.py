"""Whether an answer follows its instructions, as far as a rule can check."""

from typing import Literal

from r1lab.errors import UserError
from r1lab.grading.parts import answer_block, final_text
from r1lab.rewards import ifeval_checks
from r1lab.rewards.constraints import unmet
from r1lab.rewards.facts import reward
from r1lab.rewards.prose import words
from r1lab.rewards.score import Score


@reward(looks_for="work")
def instruction_reward(
    completions, *, constraints, mode: Literal["share", "all", "official"] = "share", **columns
) -> list[float | None]:
    """The share of its verifiable instructions that an answer follows: number of words, no commas, JSON only.

    This is verifiable instruction following as in IFEval (arXiv:2311.07911, section 2; `mode="official"` gives its
    strict prompt-level accuracy). The judged text is what follows the last `</think>`, or its `<answer>` block if it
    has one. The kinds are the functions of `r1lab.rewards.constraints`; `r1lab.rewards.prose` defines words, sentences
    and paragraphs.

    These rules do not measure whether an answer is good, and a list of the keywords has all the keywords: combine them
    with `reward_model`, `judge` or a rule that knows the answer.

    Args:
        completions: Responses, with a prefilled `<think>` restored.
        constraints: For each row a list of `{"kind": "num_words", "at_least": 100}` and the like; None or an empty
            list if the reward does not apply.
        mode: `"share"`: the share of the constraints that are met. `"all"`: 1 if all are, else 0. `"official"`: 1 if
            all are by IFEval's own checks (`r1lab.rewards.ifeval_checks`), else 0. Use it for evaluations: those
            checks accept `smart` for the keyword `art`, and a policy exploits such gaps. Sentences and capital words
            need nltk.

    Returns:
        `Score`s from 0 to 1 with the reasons all_met, `failed: num_words (12, not >= 100), ...`, empty_answer and
            no_answer (the thinking never ended). An answer without a word meets nothing.

    Raises:
        UserError: The mode is unknown, or needs nltk, which is not installed.
        ValueError: A row has an unknown kind of constraint, or one with an invalid parameter.

    >>> rules = [{"kind": "no_commas"}, {"kind": "num_words", "at_least": 100}]
    >>> (score,) = instruction_reward(["<think> Short. </think> Yes."], constraints=[rules])
    >>> score, score.reason
    (0.5, 'failed: num_words (1, not >= 100)')
    """
    if mode not in ("share", "all", "official"):
        raise UserError(f"rewards: instruction: mode: {mode!r} is not share, all or official")
    return [
        _score(turn, required, mode) if required else None
        for turn, required in zip(completions, constraints, strict=True)
    ]


def _score(turn: str, required: list[dict], mode: str) -> Score:
    final = final_text(turn)
    block = None if final is None else answer_block(final)
    answer = final or "" if block is None else block
    # Also where there is no answer: a mistake in the data should show on any completion.
    check = ifeval_checks.unmet if mode == "official" else unmet
    failed = [failure for failure in (check(answer, constraint) for constraint in required) if failure]
    if final is None:
        return Score(0.0, "no_answer")
    if not (answer.strip() if mode == "official" else words(answer)):
        return Score(0.0, "empty_answer")
    if not failed:
        return Score(1.0, "all_met")
    share = 1 - len(failed) / len(required) if mode == "share" else 0.0
    return Score(share, f"failed: {', '.join(failed)}")
