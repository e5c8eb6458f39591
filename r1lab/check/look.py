"""What can be had of a stage's inputs before it runs: the tokenizer, rows, prompts as the model reads them."""

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from r1lab import lookup
from r1lab.check.seen import GENERATED, ROWS, Seen
from r1lab.errors import UserError
from r1lab.findings import Finding
from r1lab.models import loading, prompts, smollm2
from r1lab.net import client_settings
from r1lab.recipe.references import REFERENCE
from r1lab.recipe.schema import EvalRecipe, StageRecipe
from r1lab.recipe.sections import Data
from r1lab.text import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
"""Files of which any tokenizer has one."""


def look(recipe: StageRecipe, earlier: dict[str, StageRecipe], scratch: Path) -> tuple[Seen, list[Finding]]:
    """A stage with its tokenizer and rows, and what could not be had.

    Args:
        earlier: The stages before it by name.
        scratch: A folder for what the Hub gives.
    """
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
        found += _render(seen, seen.tokenizer)
    elif by_server:
        found += _asked_of_server(seen)
    return seen, found


def start_of(path: str, earlier: dict[str, StageRecipe]) -> str:
    """The model that a stage's model, which may be `@STAGE/model`, was made from."""
    while match := REFERENCE.fullmatch(path):
        path = earlier[match[1]].model.path
    return path


def _eos_token(recipe: StageRecipe, earlier: dict[str, StageRecipe]) -> str | None:
    """The end token that a stage, or one that its model comes from, sets in place of its tokenizer's own."""
    while (token := getattr(recipe, "train", {}).get("eos_token")) is None:
        if not (match := REFERENCE.fullmatch(recipe.model.path)):
            return None
        recipe = earlier[match[1]]
    return token


@lru_cache(maxsize=1)
def hub_reachable() -> bool:
    """Whether the Hub answers within three seconds; if not, nothing asks it any more.

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
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: else each file is tried five times
        return False


def is_of_the_hub(path: str) -> bool:
    """Whether a model lies on the Hub: neither here nor carried along."""
    return not path.startswith(("embedded:", "scratch:", "@")) and not Path(path).expanduser().exists()


def hub_settings(path: str, scratch: Path) -> dict:
    """How transformers is to load a model's small files so that nothing but `scratch` is written."""
    if not is_of_the_hub(path):
        return {}
    from huggingface_hub import try_to_load_from_cache

    if not hub_reachable() or isinstance(try_to_load_from_cache(path, "tokenizer_config.json"), str):
        return {"local_files_only": True}
    return {"cache_dir": str(scratch)}


def _tokenizer(
    recipe: StageRecipe, earlier: dict[str, StageRecipe], scratch: Path
) -> tuple["PreTrainedTokenizerBase | None", list[Finding]]:
    path, keys = start_of(recipe.model.path, earlier), ("model", "path")
    if path.startswith("scratch:"):
        return None, [Finding("ok", "prompt", f"{path}: its tokenizer is made by the run, from the rows", keys=keys)]
    if path == "embedded:smollm2-135m" and not smollm2.converted().is_dir():
        return None, [Finding("ok", "prompt", f"{path}: is converted at its first use, so it was not read", keys=keys)]
    folder = loading.local_folder(path)
    model, end = recipe.model, _eos_token(recipe, earlier)
    if folder and (problem := _unknown(folder, model.trust_remote_code)):
        return None, [Finding("error", "prompt", f"{path}: {problem[0]}", problem[1], keys)]
    settings = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        return loading.load_tokenizer(path, eos_token=end, **settings, **hub_settings(path, scratch)), []
    except UserError as error:
        return None, [_refusal(problem) for problem in error.problems]
    except Exception as error:  # tokenizers raises nothing narrower for a file that it cannot read
        why = " ".join(str(error).split())[:160]
        if is_of_the_hub(path) and not hub_reachable():
            seen = (
                f"{path}: the Hub cannot be reached, and no tokenizer of it is in the cache: prompts and lengths were"
            )
            fix = f"check again online{_meant_here(path)}"
            # One that may be meant for a folder has its own line, with that folder, among several stages too.
            unreached = () if _meant_here(path) else (path,)
            return None, [Finding("warning", "prompt", f"{seen} not looked at", fix, keys, unreached)]
        fix = f"name a model with a tokenizer, or copy its tokenizer.json{_meant_here(path)}"
        return None, [Finding("error", "prompt", f"{path}: its tokenizer does not load: {why}", fix, keys)]


def _unknown(folder: Path, trust: bool) -> tuple[str, str] | None:
    """Why transformers cannot use a model's folder, and the fix: its config, or a tokenizer that is not there."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    except Exception as error:  # configs check their own fields, each in its way
        why = " ".join(str(error).split())[:160]
        return f"its config.json cannot be used: {why}", "fix that file, or name another model"
    if not trust and not any(file for pattern in _TOKENIZERS for file in folder.glob(pattern)):
        return "no tokenizer in it, no tokenizer.json", "copy it from the model that these weights were made from"
    return None


def _meant_here(path: str) -> str:
    """A folder of this machine whose path looks like one that is not there: a typing error passes for a Hub name."""
    if not is_of_the_hub(path):
        return ""
    place = Path(path)
    there = [str(folder) for folder in place.parent.glob("*/")] if place.parent.is_dir() else []
    return did_you_mean(path, there)


def _data(recipe: StageRecipe) -> tuple[dict[str, list[dict]], list[Finding]]:
    """The rows of a stage, those of generators fewer, by the task of an evaluation, else by the builder."""
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
            # What takes a tokenizer or other stages' samples is left for the run.
            sections[name] = data.model_copy(update={"max_tokens": None, "pass_rate": None, "order": None})
    found = []
    if left_out:
        made = f"rows of {', '.join(left_out)} are" if sections or unreached else "its rows are"
        found.append(Finding("ok", "data", f"{made} made by the run", keys=keys))
    if unreached := tuple(dict.fromkeys(unreached)):
        seen = f"{', '.join(unreached)}: the Hub cannot be reached: rows were not looked at"
        found.append(Finding("warning", "data", seen, "check again online", keys, unreached))
    try:
        if evaluation:
            asked = evaluation.eval.model_copy(update={"size": min(evaluation.eval.size, ROWS)})
            return eval_tasks(evaluation.model_copy(update={"eval": asked}), sections), found
        sized = {name: data.model_copy(update={"size": _size(data)}) for name, data in sections.items()}
        return {name: build_rows(data, seed=recipe.seed) for name, data in sized.items()}, found
    except UserError as error:
        problems = [problem.removeprefix("data: ") for problem in error.problems]
        return {}, found + [Finding("error", "data", problem, keys=keys) for problem in problems]


def _size(data: Data) -> int | None:
    """As many rows as the run will have, of a builder that makes them no more than are needed to look at."""
    takes = lookup.parameters(lookup.function("data", data.builder))
    if "size" not in takes or any(_is_here(path) for path in _paths(data)):
        return data.size
    return min(data.size or GENERATED, GENERATED)


def _without_later_rows(data: Data) -> tuple[Data | None, list[str]]:
    """A data section without what only the run makes, None where nothing is left, and the paths left out."""
    extra = data.parameters
    if data.builder != "mix":
        return (None, [extra["path"]]) if _is_made(extra.get("path")) else (data, [])
    parts = [part for part in extra["parts"] if not _is_made(part.get("path"))]
    left_out = [part["path"] for part in extra["parts"] if _is_made(part.get("path"))]
    return (data.model_copy(update={"parts": parts}) if parts else None), left_out


def _is_made(path: object) -> bool:
    return isinstance(path, str) and path.startswith("@")


def _paths(data: Data) -> list[str]:
    """Where the rows of a data section, or of its parts, lie; none for what is generated."""
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
    """Fills in the prompts and completions as the model reads them; what a template refuses is an error."""
    columns = seen.recipe.learns
    rows, template = seen.rows, template_of(seen, tokenizer)
    if template == {"template": "none"}:  # a reward model without a chat template reads messages as their texts
        rows = [row | {"prompt": prompts.joined(row["prompt"])} for row in rows]
    try:
        seen.rendered = [prompts.render(row["prompt"], tokenizer, **template) for row in rows]
        seen.prompt_ids = tokenizer([text for text, _ in seen.rendered], add_special_tokens=False)["input_ids"]
        if columns and tokenizer.eos_token_id is not None and all(row.get(c) for row in rows for c in columns):
            seen.examples = [prompts.example(row, tokenizer, **template, keys=columns) for row in rows]
    except UserError as error:
        return [_refusal(problem) for problem in error.problems]
    return []


def _asked_of_server(seen: Seen) -> list[Finding]:
    """What of the prompts has no place in a template that is plain text; the server renders the others."""
    template = seen.prompt.model_dump() if seen.prompt else {}
    try:
        for row in seen.rows:
            prompts.messages(row["prompt"], **template)
    except UserError as error:
        return [_refusal(problem) for problem in error.problems]
    return []


def template_of(seen: Seen, tokenizer: "PreTrainedTokenizerBase") -> dict:
    """The arguments of `prompts.render` for a stage; one without a section `prompt` has the model's own."""
    if seen.prompt is None:
        return {"template": "chat" if tokenizer.chat_template else "none"}
    return seen.prompt.model_dump()


def _refusal(problem: str) -> Finding:
    """What `prompts.render` refuses, at the key that its message begins with."""
    key, _, message = problem.partition(": ")
    return Finding("error", "prompt", message, keys=tuple(key.split(".")))
