"""`r1lab ask`: the answers of one or more models to a question that a person types."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from r1lab.engines import Engine, Sampling, generate, load
from r1lab.errors import UserError
from r1lab.models import loading, prompts
from r1lab.rundir import directory
from r1lab.text import did_you_mean, did_you_mean_path

MAX_TOKENS = 512


@dataclass(frozen=True)
class Answer:
    """One answer of a model.

    Attributes:
        text: The whole response, with what the prompt template begins it with.
        truncated: Whether it reached the maximum number of tokens.
    """

    text: str
    truncated: bool


def run(
    model: str,
    question: str | None,
    *,
    compare: Sequence[str],
    template: str | None,
    engine: str,
    max_tokens: int | None,
    temperature: float,
    samples: int,
    seed: int,
) -> None:
    """Prints the answers of a model, and of those that it is compared with, to a question.

    Args:
        question: None for each line of standard input.
        compare: Other models, which answer too.
        template: The prompt template; None for the one that the model was trained with, or else the model's own.
        max_tokens: None for the limit of that run, or else `MAX_TOKENS`.

    Raises:
        UserError: An option is invalid, or a model cannot be loaded.
    """
    for option, value in (("--samples", samples), ("--max-tokens", max_tokens)):
        if value is not None and value < 1:
            raise UserError(f"r1lab ask: {option} {value}: must be at least 1")
    if temperature < 0:
        raise UserError(f"r1lab ask: --temperature {temperature}: must be at least 0")
    if samples > 1 and not temperature:
        raise UserError(f"r1lab ask: --samples {samples}: greedy answers are all the same: set --temperature 1")
    if template and template not in prompts.TEMPLATES and not prompts.is_file(template):
        hint = did_you_mean(template, prompts.TEMPLATES, otherwise=f"; there are: {', '.join(prompts.TEMPLATES)}")
        raise UserError(f"r1lab ask: --template {template}: no such template{hint}")
    trained, where = directory.trained_by(model)
    longest = max_tokens or trained.get("rollout", {}).get("max_completion_length") or MAX_TOKENS
    sampling = Sampling(n=samples, max_tokens=longest, temperature=temperature, seed=seed)
    prompt, why = ({"template": template}, "") if template else (trained.get("prompt", {}), where)
    models = {
        name: answerer(name, sampling, prompt, engine=engine, why=why) for name in dict.fromkeys([model, *compare])
    }
    typed = sys.stdin.isatty()
    for each in [question] if question else questions(lambda: input("question> " if typed else "")):
        for name, answer in models.items():
            for found in answer(each):
                head = f"{name}:" if len(models) > 1 or samples > 1 else ""
                ended = f"(truncated at {longest:,} tokens; --max-tokens N allows more)" * found.truncated
                lines = filter(None, [head, found.text, ended])
                print(*lines, sep="\n", end="\n\n", flush=True)


def answerer(
    path: str, sampling: Sampling, prompt: dict, *, engine: str, why: str = ""
) -> Callable[[str], list[Answer]]:
    """A model that is loaded, as a function from a question to its answers.

    Args:
        path: A model folder, a Hub id or `embedded:NAME`.
        prompt: The settings of a recipe's `prompt` section; empty for the model's chat template if it has one, or else
            the question alone.
        why: Why it is this prompt, for the line that names it.

    Raises:
        UserError: The model cannot be loaded, or the template does not exist.
    """
    tokenizer, loaded = opened(path, engine)
    settings = prompt or {"template": "chat" if tokenizer.chat_template else "none"}
    what = "text" if settings.get("text") is not None else f"template {settings['template']}"
    # Not among the answers.
    print(f"{path}: prompt {what}{', ' * bool(why)}{why}; --template NAME uses another", file=sys.stderr)
    if path.startswith("embedded:tiny-"):
        print(f"{path}: knows only Knights and Knaves puzzles with 2 and 3 people", file=sys.stderr)

    def answer(question: str) -> list[Answer]:
        text, prefill = prompts.render(question, tokenizer, **settings)
        (completions,) = generate(loaded, [text], sampling)
        return [Answer((prefill + completion.text).strip(), completion.truncated) for completion in completions]

    return answer


def opened(path: str, engine: str) -> tuple[Any, Engine]:
    """The tokenizer of a model, and an engine that has loaded it, without progress bars.

    Raises:
        UserError: The model cannot be loaded.
    """
    from transformers.utils import logging as progress

    progress.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports each retry
    try:
        return loading.load_tokenizer(path), load(path, engine=engine)
    except OSError as error:  # of transformers, in several lines
        why, hint = str(error).splitlines()[0], did_you_mean_path(path)
        raise UserError(
            f"{path}: no such folder{hint}, and it cannot be loaded from the Hub: {why}", status=1
        ) from error


def questions(read: Callable[[], str]) -> Iterator[str]:
    """Questions that `read` returns one by one, without empty ones, until it raises EOFError."""
    while True:
        try:
            question = read().strip()
        except EOFError:
            return
        if question:
            yield question
