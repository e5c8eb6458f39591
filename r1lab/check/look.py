"""Loads the inputs of a stage that exist before it runs: the tokenizer, the rows, the rendered prompts."""

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from r1lab import lookup
from r1lab.check.seen import GENERATED, ROWS, Seen
from r1lab.episodes.record import sampled_ids
from r1lab.errors import UserError
from r1lab.findings import Finding
from r1lab.models import gguf, loading, prompts, smollm2
from r1lab.net import client_settings
from r1lab.recipe.references import REFERENCE
from r1lab.recipe.schema import EvalRecipe, StageRecipe
from r1lab.recipe.sections import Data, Model
from r1lab.recipe.yaml_source import Keys
from r1lab.text import did_you_mean_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
"""Every tokenizer has at least one of these files."""


def look(recipe: StageRecipe, earlier: dict[str, StageRecipe], scratch: Path) -> tuple[Seen, list[Finding]]:
    """A stage with its tokenizer and rows, and findings about inputs that are unavailable.

    Args:
        earlier: The stages before it by name.
        scratch: A folder for downloads from the Hub.
    """
    from r1lab.check.environments import shown_tools

    seen, found = Seen(recipe), []
    by_server = seen.rollout is not None and seen.rollout.engine == "server"
    if by_server:
        found.append(Finding("ok", "prompt", "the server puts the prompt into the model's chat template"))
    else:
        tokenizer, more = _tokenizer(recipe, earlier, scratch)
        seen.tokenizer, found = tokenizer, found + more
    seen.tasks, more = _data(recipe)
    seen.data = [row for rows in seen.tasks.values() for row in rows]
    found += more
    seen.rows = seen.data[:: max(1, -(-len(seen.data) // ROWS))]
    if seen.tokenizer and seen.rows:
        seen.tools = shown_tools(recipe)
        found += _render(seen, seen.tokenizer)
    elif by_server:
        found += _for_server(seen)
    return seen, found


def start_of(path: str, earlier: dict[str, StageRecipe]) -> str:
    """The model that a stage starts from, with `@STAGE/model` resolved."""
    while match := REFERENCE.fullmatch(path):
        path = earlier[match[1]].model.path
    return path


def _eos_token(recipe: StageRecipe, earlier: dict[str, StageRecipe]) -> str | None:
    """The EOS token that a stage, or an earlier stage that made its model, sets instead of the tokenizer's own."""
    while (token := getattr(recipe, "train", {}).get("eos_token")) is None:
        if not (match := REFERENCE.fullmatch(recipe.model.path)):
            return None
        recipe = earlier[match[1]]
    return token


@lru_cache(maxsize=1)
def hub_reachable() -> bool:
    """Whether the Hub answers within three seconds; if not, no further request is sent.

    Raises:
        UserError: The environment names a proxy, or certificates, that cannot be used.
    """
    import httpx

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        httpx.head(url, timeout=3, follow_redirects=True, **client_settings(url))
        return True
    except httpx.HTTPError:
        os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it on import; without it each file is tried 5 times
        return False


def is_of_the_hub(path: str) -> bool:
    """Whether a model is on the Hub, and neither local nor embedded."""
    return not path.startswith(("embedded:", "scratch:", "@")) and not Path(path).expanduser().exists()


def hub_settings(path: str, scratch: Path) -> dict:
    """Keyword arguments with which transformers loads a model's small files and writes only to `scratch`."""
    if not is_of_the_hub(path):
        return {}
    from huggingface_hub import try_to_load_from_cache

    if not hub_reachable() or isinstance(try_to_load_from_cache(path, "tokenizer_config.json"), str):
        return {"local_files_only": True}
    return {"cache_dir": str(scratch)}


def _tokenizer(
    recipe: StageRecipe, earlier: dict[str, StageRecipe], scratch: Path
) -> tuple["PreTrainedTokenizerBase | None", list[Finding]]:
    start, end = start_of(recipe.model.path, earlier), _eos_token(recipe, earlier)
    return tokenizer_of(recipe.model, start, ("model", "path"), scratch, end)


def tokenizer_of(
    model: Model, path: str, keys: Keys, scratch: Path, end: str | None = None
) -> tuple["PreTrainedTokenizerBase | None", list[Finding]]:
    """The tokenizer of a model, or None with the reason.

    Args:
        model: Its section.
        path: Its path, with `@STAGE/model` resolved.
        keys: The keys of the path in the recipe.
        scratch: A folder for downloads from the Hub.
        end: An end token in place of the tokenizer's own.
    """
    if path.startswith("scratch:"):
        return None, [Finding("ok", "prompt", f"{path}: its tokenizer exists only during the run", keys=keys)]
    unconverted = gguf.is_gguf(path) and loading.local_folder(path) is None
    if unconverted or smollm2.layers(path) and not smollm2.converted(path.removeprefix("embedded:")).is_dir():
        what = f"{path}: is converted on first use, so its tokenizer was not checked"
        return None, [Finding("ok", "prompt", what, keys=keys)]
    folder = loading.local_folder(path)
    if folder and (problem := _unknown(folder, model.trust_remote_code)):
        return None, [Finding("error", "prompt", f"{path}: {problem[0]}", problem[1], keys)]
    settings = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        return loading.load_tokenizer(path, eos_token=end, **settings, **hub_settings(path, scratch)), []
    except UserError as error:
        return None, [_refusal(problem) for problem in error.problems]
    except Exception as error:  # tokenizers raises no narrower exception for a file that it cannot read
        why = " ".join(str(error).split())[:160]
        if is_of_the_hub(path) and not hub_reachable():
            what = f"{path}: the Hub cannot be reached and the tokenizer is not in the cache, so prompts and lengths"
            hint = _similar_folder(path)
            # A path that may be a mistyped folder keeps its own line with the hint, even in a pipeline.
            unreached = () if hint else (path,)
            fix = f"check again online{hint}"
            return None, [Finding("warning", "prompt", f"{what} were not checked", fix, keys, unreached)]
        fix = f"use a model with a tokenizer, or copy its tokenizer.json{_similar_folder(path)}"
        return None, [Finding("error", "prompt", f"{path}: its tokenizer does not load: {why}", fix, keys)]


def _unknown(folder: Path, trust: bool) -> tuple[str, str] | None:
    """Why transformers cannot use a model's folder (its config, or a missing tokenizer), and the fix."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    except Exception as error:  # configs validate their own fields, with exceptions of their own
        why = " ".join(str(error).split())[:160]
        return f"its config.json cannot be used: {why}", "fix that file, or use another model"
    if not trust and not any(file for pattern in _TOKENIZERS for file in folder.glob(pattern)):
        return "the folder has no tokenizer.json", "copy it from the model that these weights were trained from"
    return None


def _similar_folder(path: str) -> str:
    """A hint with a local folder of a similar path, because a mistyped folder looks like a Hub id."""
    return did_you_mean_path(path) if is_of_the_hub(path) else ""


def _data(recipe: StageRecipe) -> tuple[dict[str, list[dict]], list[Finding]]:
    """The rows of a stage (fewer of those that a generator makes), by evaluation task or by builder."""
    from r1lab.stages.rows import build_rows, eval_tasks, task_sections

    evaluation, own = recipe if isinstance(recipe, EvalRecipe) else None, getattr(recipe, "data", None)
    keys = ("eval", "tasks") if evaluation and evaluation.eval.tasks else ("data",)
    wholes: dict[str, Data] = task_sections(evaluation) if evaluation else {own.builder: own} if own else {}
    sections, left_out, unreached = {}, [], []
    for name, whole in wholes.items():
        data, made = _without_later_rows(whole)
        left_out += made
        of_hub = [path for path in _paths(data) if not _is_here(path)] if data else []
        if of_hub and not hub_reachable():
            unreached += of_hub
        elif data:
            # Options that need a tokenizer or other stages' samples apply only in the run.
            sections[name] = data.model_copy(update={"max_tokens": None, "pass_rate": None, "order": None})
    found = []
    if left_out:
        made = f"rows of {', '.join(left_out)}" if sections or unreached else "its rows"
        found.append(Finding("ok", "data", f"{made} exist only during the run", keys=keys))
    found += _unreached(unreached, keys)
    try:
        if evaluation:
            smaller = evaluation.eval.model_copy(update={"size": min(evaluation.eval.size, ROWS)})
            return eval_tasks(evaluation.model_copy(update={"eval": smaller}), sections), found
        sized = {name: data.model_copy(update={"size": _size(data)}) for name, data in sections.items()}
        return {name: build_rows(data, seed=recipe.seed) for name, data in sized.items()}, found
    except UserError as error:
        problems = [problem.removeprefix("data: ") for problem in error.problems]
        return {}, found + [Finding("error", "data", problem, keys=keys) for problem in problems]


def _unreached(paths: list[str], keys: tuple[str, ...]) -> list[Finding]:
    """Warnings about data sets that the Hub might have; one that may be a mistyped file has a line of its own."""
    from r1lab.data.rows import similar

    hints = {path: similar(path) for path in paths}
    others = tuple(path for path, hint in hints.items() if not hint)
    why = "the Hub cannot be reached, so these rows were not checked"
    found = [
        Finding("warning", "data", f"{path}: {why}", f"check again online{hint}", keys)
        for path, hint in hints.items()
        if hint
    ]
    if others:
        found.append(Finding("warning", "data", f"{', '.join(others)}: {why}", "check again online", keys, others))
    return found


def _size(data: Data) -> int | None:
    """The number of rows to build: as in the run, but for a generator at most `GENERATED`."""
    takes = lookup.parameters(lookup.function("data", data.builder))
    if "size" not in takes or any(_is_here(path) for path in _paths(data)):
        return data.size
    return min(data.size or GENERATED, GENERATED)


def _without_later_rows(data: Data) -> tuple[Data | None, list[str]]:
    """A data section without rows that exist only during the run (None if nothing is left), and their paths."""
    extra = data.parameters
    if data.builder != "mix":
        return (None, [extra["path"]]) if _is_made(extra.get("path")) else (data, [])
    parts = [part for part in extra["parts"] if not _is_made(part.get("path"))]
    left_out = [part["path"] for part in extra["parts"] if _is_made(part.get("path"))]
    return (data.model_copy(update={"parts": parts}) if parts else None), left_out


def _is_made(path: object) -> bool:
    return isinstance(path, str) and path.startswith("@")


def _paths(data: Data) -> list[str]:
    """The paths of the rows of a data section or of its parts; none for generated rows."""
    extra = data.parameters
    parts = extra["parts"] if data.builder == "mix" else [{"builder": data.builder, **extra}]
    found = []
    for part in parts:
        takes = lookup.parameters(lookup.function("data", part.get("builder", "rows")))
        default = takes["path"].default if "path" in takes else None
        path = part.get("path", default)
        found += [path] if isinstance(path, str) else []
    return found


def _is_here(path: str) -> bool:
    from r1lab.data.rows import is_local

    return is_local(path)


def _render(seen: Seen, tokenizer: "PreTrainedTokenizerBase") -> list[Finding]:
    """Fills in the rendered prompts and completions; rows that a template refuses are errors."""
    columns = seen.recipe.learns
    rows, template = seen.rows, template_of(seen, tokenizer)
    if template == {"template": "none"}:  # a reward model without a chat template reads the texts of the messages
        rows = [row | {"prompt": prompts.joined(row["prompt"])} for row in rows]
    try:
        seen.rendered = [
            prompts.render(row["prompt"], tokenizer, tools=seen.tools or row.get("tools"), **template) for row in rows
        ]
        seen.prompt_ids = tokenizer([text for text, _ in seen.rendered], add_special_tokens=False)["input_ids"]
        if columns and tokenizer.eos_token_id is not None and all(row.get(c) for row in rows for c in columns):
            seen.examples = [_example(row, tokenizer, template, columns) for row in rows]
    except UserError as error:
        return [_refusal(problem) for problem in error.problems]
    return []


def _example(row: dict, tokenizer: "PreTrainedTokenizerBase", template: dict, columns: tuple[str, ...]) -> dict:
    """The tokens of a row; of an episode in a file of samples, those that were sampled."""
    if columns == ("completion",) and (sampled := sampled_ids(row)) is not None:
        return {"prompt_ids": sampled[0], "completion_ids": sampled[1]}
    return prompts.example(row, tokenizer, **template, keys=columns)


def _for_server(seen: Seen) -> list[Finding]:
    """Messages for which a plain-text template has no place; the server renders chat templates itself."""
    template = seen.prompt.model_dump() if seen.prompt else {}
    try:
        for row in seen.rows:
            prompts.messages(row["prompt"], tools=row.get("tools"), **template)
    except UserError as error:
        return [_refusal(problem) for problem in error.problems]
    return []


def template_of(seen: Seen, tokenizer: "PreTrainedTokenizerBase") -> dict:
    """The arguments of `prompts.render` for a stage; without a `prompt` section the model's own template is used."""
    if seen.prompt is None:
        return {"template": "chat" if tokenizer.chat_template else "none"}
    return seen.prompt.model_dump()


def _refusal(problem: str) -> Finding:
    """An error of `prompts.render`, at the key that its message begins with."""
    key, _, message = problem.partition(": ")
    return Finding("error", "prompt", message, keys=tuple(key.split(".")))
