"""The prompt of an episode: the question of its row, what the environment says at the start, and the tools."""

from collections.abc import Callable, Sequence

from r1lab.models import prompts


def beginning(tokenizer, schemas: Sequence[dict] = (), **settings) -> Callable[[dict, str | None], list[int]]:
    """Returns a function from a row, and what its environment says at the start, to the tokens of the prompt.

    Args:
        schemas: The tools, as of `r1lab.environments.toolset.schema`; without any, those of a row's column `tools`.
        settings: The other arguments of `r1lab.models.prompts.render`.
    """

    def begin(row: dict, said: str | None) -> list[int]:
        prompt = ended(row["prompt"], said or "")
        text, _ = prompts.render(prompt, tokenizer, tools=list(schemas) or row.get("tools"), **settings)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return begin


def ended(prompt: str | list[dict], said: str) -> str | list[dict]:
    """A prompt, or its last message, with a further paragraph at its end.

    >>> ended("Which one?", "You have 5 guesses.")
    'Which one?\\n\\nYou have 5 guesses.'
    """
    if isinstance(prompt, str):
        return "\n\n".join(part for part in (prompt, said) if part)
    return [*prompt[:-1], prompt[-1] | {"content": ended(prompt[-1]["content"], said)}]
