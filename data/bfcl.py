"""BFCL: questions with tools, and the calls that answer them."""

import json
import re
from pathlib import Path
from typing import Literal

from r1lab.data.evaluation import evaluation_only
from r1lab.data.rows import convert_all, converted, draw, first_of, is_local, json_lines
from r1lab.errors import UserError
from r1lab.rewards.tool_calls import ANY, expected_calls
from r1lab.text import did_you_mean_path

HUB = "gorilla-llm/Berkeley-Function-Calling-Leaderboard"
Category = Literal[
    "simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance", "live_simple", "live_multiple",
    "live_parallel", "live_parallel_multiple", "live_irrelevance", "live_relevance",
]  # fmt: skip
_FORMER = {"simple_python": "simple"}  # its name before version 4
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string", "list": "array", "bool": "boolean"}


def bfcl(
    *,
    path: str = HUB,
    split: Literal["test"] = "test",
    size: int | None = None,
    seed: int = 0,
    category: Category = "simple_python",
) -> list[dict]:
    """Function calling in one turn (Berkeley Function Calling Leaderboard, version 4), for evaluation only.

    Args:
        path: The dataset on the Hub, or a folder with its files, such as `bfcl_eval/data` of the pip package
            `bfcl-eval`: `BFCL_v4_CATEGORY.json` and `possible_answer/BFCL_v4_CATEGORY.json`. Or a `.jsonl` file of
            rows of that form, each with its own `ground_truth`; the rows whose `id` begins with the category are used.
        split: `"test"`: the set has no training split.
        size: Maximum number of rows, sampled by `seed`. Default: all.
        category: `simple_python` has one tool and one call, `multiple` several tools, `parallel` several calls,
            `parallel_multiple` both, and `irrelevance` no tool that fits. Those that begin with `live_` were
            contributed by users; in `live_relevance` any call of a tool is right.

    Returns:
        Rows with `prompt` (text, or messages if there are several), `tools` (JSON schemas, for the prompt and the
            reward), `answer` (the expected calls as JSON, for the reward `tool_calls`), `task` (`bfcl/simple_python`)
            and `id`. BFCL's own types are converted to those of JSON schemas, and the dots in names of tools to
            underscores, as BFCL does. `answer` keeps the dots, which the reward ignores.

    >>> import json, tempfile
    >>> tool = {"name": "math.factorial", "parameters": {"type": "dict", "properties": {"n": {"type": "integer"}}}}
    >>> row = {"id": "simple_python_1", "question": [[{"role": "user", "content": "5!?"}]], "function": [tool]}
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps(row | {"ground_truth": [{"math.factorial": {"n": [5]}}]}))
    ...     file.flush()
    ...     row = bfcl(path=file.name)[0]
    >>> row["answer"], row["tools"][0]["function"]["name"]
    ('[{"math.factorial": {"n": [5]}}]', 'math_factorial')
    """
    evaluation_only("bfcl", split, instead="your own rows with tools")

    def convert(row: dict) -> dict:
        return {
            "prompt": _prompt(first_of(row, "question")),
            "answer": _answer(row, category),
            "task": f"bfcl/{category}",
            "tools": [_schema(tool) for tool in first_of(row, "function")],
            "id": row.get("id"),
        }

    place = Path(path).expanduser()
    if is_local(path) and not place.is_dir():
        found = converted(path, "test", lambda row: convert(row) if _is_of(row, category) else None)
        found = [row for row in found if row is not None]
    else:
        found = convert_all(_of_folder(place if place.is_dir() else _downloaded(path), category), convert)
    if not found:
        raise UserError(f"{path}: no row of the category {category}: set another category")
    return draw(found, size, seed)


def _is_of(row: dict, category: str) -> bool:
    return str(row.get("id")).removeprefix(f"{category}_")[:1].isdigit()


def _prompt(turns: list) -> str | list[dict]:
    if len(turns) != 1:
        raise ValueError(f"question: a conversation of {len(turns)} turns, which this builder does not read")
    return turns[0][0]["content"] if len(turns[0]) == 1 else turns[0]


def _answer(row: dict, category: str) -> str:
    if category == "live_relevance":
        return ANY
    expected = [] if category.endswith("irrelevance") else first_of(row, "ground_truth")
    expected_calls(expected)
    return json.dumps(expected, ensure_ascii=False)


def _schema(tool: dict) -> dict:
    inner = tool | {"name": tool["name"].replace(".", "_"), "parameters": _converted_types(tool["parameters"])}
    return {"type": "function", "function": inner}


def _converted_types(schema: dict) -> dict:
    """A schema with the types of JSON schemas.

    >>> _converted_types({"type": "dict", "properties": {"type": {"type": "tuple", "items": {"type": "float"}}}})
    {'type': 'object', 'properties': {'type': {'type': 'array', 'items': {'type': 'number'}}}}
    """
    made = dict(schema)
    if isinstance(made.get("type"), str):
        made["type"] = _TYPES.get(made["type"], made["type"])
    if isinstance(made.get("properties"), dict):
        made["properties"] = {name: _converted_types(inner) for name, inner in made["properties"].items()}
    if isinstance(made.get("items"), dict):
        made["items"] = _converted_types(made["items"])
    return made


def _of_folder(folder: Path, category: str) -> list[tuple[str, object]]:
    """Each row of a category with its place, and with its `ground_truth` if the category has one."""
    names = f"{category}|{_FORMER.get(category, category)}"
    files = [file for file in folder.glob("BFCL_v*.json") if re.fullmatch(rf"BFCL_v\d+_({names})", file.stem)]
    files.sort(reverse=True)
    if not files:
        raise UserError(f"{folder}: no BFCL_v4_{category}.json in this folder: {_GET}")
    numbered = list(json_lines(files[0]))
    if category.endswith("relevance"):
        return numbered
    answers = folder / "possible_answer" / files[0].name
    if not answers.is_file():
        raise UserError(f"{answers}: no such file, which has the answers of {files[0].name}: {_GET}")
    truths = {row["id"]: row.get("ground_truth") for _, row in json_lines(answers) if isinstance(row, dict)}
    return [
        (where, row | {"ground_truth": truths.get(row.get("id"))} if isinstance(row, dict) else row)
        for where, row in numbered
    ]


_GET = "get the files with `pip download --no-deps bfcl-eval`, unzip it, and set path to its folder bfcl_eval/data"


def _downloaded(name: str) -> Path:
    """The folder of the dataset on the Hub, which `datasets` cannot load, because the columns of its files differ."""
    from huggingface_hub import snapshot_download

    try:
        wanted = ["BFCL_v*.json", "possible_answer/*.json"]
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=wanted))
    except (OSError, ValueError) as error:  # not there, or not reached
        hint = did_you_mean_path(name, lambda place: place.is_dir())
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: neither a local folder nor a dataset on the Hub{hint}: {why}: {_GET}") from error
