"""Checks the section `prompt` of a stage."""

from r1lab.errors import UserError
from r1lab.models import prompts
from r1lab.recipe.sections import Prompt
from r1lab.recipe.values import Problems, not_a_choice


def prompt_problems(prompt: Prompt, *, server: bool) -> Problems:
    """Whether a prompt's template exists, or is a file that renders a question, and its text has a place for one.

    `server` says whether a server generates, which applies the model's own chat template.
    """
    keys = ("prompt", "template")
    if prompt.text is not None and "{question}" not in prompt.text:
        return [(("prompt", "text"), "has no place for the question: write {question} where it belongs")]
    if prompt.text is not None and prompt.template != "none":
        return [(("prompt", "text"), "replaces the template: remove prompt.template or prompt.text")]
    if prompts.is_file(prompt.template):
        if server:
            return [(keys, f"{prompt.template}: a server applies its own chat template: set prompt.template: chat")]
        try:
            prompts.read_template(prompt.template)
        except UserError as error:
            return [(keys, problem.removeprefix("prompt.template: ")) for problem in error.problems]
    elif prompt.template not in prompts.TEMPLATES:
        own = "; write ./mine.jinja for your own template, or set prompt.text to plain text"
        return [(keys, not_a_choice(prompt.template, list(prompts.TEMPLATES)) + own)]
    if prompt.prefill and server and not prompts.is_plain(**prompt.model_dump()):
        what = "a server starts the assistant's turn itself: remove prefill, or set prompt.text"
        return [(("prompt", "prefill"), what)]
    return []
