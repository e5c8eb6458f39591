"""The thinking budgets of an evaluation, as its recipe has them."""

from r1lab.engines import Engine, EpisodeEngine
from r1lab.errors import UserError
from r1lab.evaluation.budgets import OPEN, Budgets, Forcing
from r1lab.models.prompts import closing, wording
from r1lab.stages.rows import Evaluated, eval_of


def forcing_of(recipe: Evaluated, tokenizer, prefill: str) -> Forcing | None:
    """Returns how the budgets of an evaluation are enforced; None if it has none.

    Args:
        prefill: The beginning of the assistant's turn in the prompt.
    """
    evaluation = eval_of(recipe)
    given, most = evaluation.forcing, evaluation.max_completion_length or recipe.rollout.max_completion_length
    if not evaluation.budgets:
        return None
    return Forcing(
        tuple(sorted(set(evaluation.budgets))),
        given.close or closing(wording(**recipe.prompt.model_dump())),
        tokenizer,
        prefilled=OPEN in prefill,
        extend=given.extend,
        wait=given.wait,
        answer_length=given.answer_length or most,
    )


def settings_of(recipe: Evaluated) -> dict:
    """Returns what the answers under budgets depend on, for `evaluation.json`."""
    evaluation = eval_of(recipe)
    if not evaluation.budgets:
        return {}
    close = evaluation.forcing.close or closing(wording(**recipe.prompt.model_dump()))
    return {"budgets": evaluation.forcing.model_dump() | {"tokens": evaluation.budgets, "close": close}}


def forced_by(engine: Engine, forcing: Forcing, groups: dict[int, list[tuple[list[int], bool]]]) -> Budgets:
    """Returns the engine whose completions are those in `groups` under budgets.

    Raises:
        UserError: The engine is a server, which continues no tokens.
    """
    if not isinstance(engine, EpisodeEngine):
        raise UserError(
            "eval.budgets: a server does not continue tokens: evaluate in an eval stage, with engine: auto"
        )
    return Budgets(engine, forcing, groups)
