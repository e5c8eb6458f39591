"""`r1lab ask`: the answers of one or more models to a question that a person types."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from r1lab.engines import Sampling, generate, load
from r1lab.errors import UserError
from r1lab.models import loading, prompts
from r1lab.rundir import storage

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


def answerer(path: str, sampling: Sampling, prompt: dict, *, engine: str) -> Callable[[str], list[Answer]]:
    """A model that is loaded, as a function from a question to its answers.

    Args:
        path: A model folder, a Hub id or `embedded:NAME`.
        prompt: The settings of a recipe's `prompt` section; empty for the model's chat template if it has one, or else
            the question alone.

    Raises:
        UserError: The model cannot be loaded, or the template does not exist.
    """
    from transformers.utils import logging as progress

    progress.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports each retry
    try:
        tokenizer = loading.load_tokenizer(path)
        loaded = load(path, engine=engine)
    except OSError as error:  # of transformers, in several lines
        why = str(error).splitlines()[0]
        raise UserError(f"{path}: no such folder, and it cannot be loaded from the Hub: {why}", status=1) from error
    settings = prompt or {"template": "chat" if tokenizer.chat_template else "none"}

    def answer(question: str) -> list[Answer]:
        text, prefill = prompts.render(question, tokenizer, **settings)
        (completions,) = generate(loaded, [text], sampling)
        return [Answer((prefill + completion.text).strip(), completion.truncated) for completion in completions]

    return answer


def run_config(path: str) -> dict:
    """The resolved recipe of the stage that trained the model of a run; empty for any other model.

    >>> run_config("embedded:tiny-qwen2")
    {}
    """
    file = Path(path).parent / "config.yaml"
    return storage.read_yaml(file) if Path(path).name == "model" and file.is_file() else {}


def questions(read: Callable[[], str]) -> Iterator[str]:
    """Questions that `read` returns one by one, without empty ones, until it raises EOFError."""
    while True:
        try:
            question = read().strip()
        except EOFError:
            return
        if question:
            yield question
