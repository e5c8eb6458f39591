"""Host memory of an SFT stage's tokens: `python -m benchmarks.sft_memory [--rows N] [--tokens T] [--lists]`.

Turns rows of random words into the trainer's data set, without a model: as r1lab does it, in an Arrow file that is
mapped into memory, or with `--lists` as Python lists that are copied to Arrow, as it did before. Prints one line of
JSON: the peak of the resident memory in GiB without that of texts and imports, tokens, seconds, and the bytes of host
memory per token.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

RECIPE = {
    "name": "sft-memory",
    "stage": "sft",
    "model": {"path": "embedded:tiny-qwen2"},
    "data": {"path": "rows.jsonl"},
    "prompt": {"template": "r1-zero"},
}


def measure(*, rows: int, tokens: int, lists: bool) -> dict:
    """Measures the peak memory and the seconds of turning rows into the trainer's data set.

    Args:
        rows: The number of rows.
        tokens: The approximate number of tokens per completion.
        lists: Whether to hold the tokens as Python lists first.
    """
    from datasets import Dataset

    from r1lab.models import loading
    from r1lab.recipe.schema import SftRecipe
    from r1lab.stages.sft import by_length, examples, tokenized

    tokenizer, recipe = loading.load_tokenizer("embedded:tiny-qwen2"), SftRecipe(**RECIPE)
    rng, words = random.Random(0), ["knight", "knave", "says", "that", "is", "a", "and", "Zoey", "17", "so"]
    texts = [" ".join(rng.choices(words, k=round(tokens * rng.uniform(0.35, 0.65)))) for _ in range(rows)]
    made = [{"prompt": "Who is a knight?", "completion": text} for text in texts]
    before = _resident()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if lists:
            found = list(examples(recipe, made, tokenizer, Path(folder), None))
            order = by_length([len(example["input_ids"]) for example in found], 8, seed=0)
            dataset = Dataset.from_list([found[place] for place in order])
            count = sum(len(example["input_ids"]) for example in found)
        else:
            dataset = tokenized(recipe, made, tokenizer, Path(folder))
            count = sum(dataset["length"][:])
            dataset = dataset.select(by_length(dataset["length"][:], 8, seed=0))
        seconds, peak = time.perf_counter() - started, _peak() - before
    return {
        "rows": len(dataset),
        "tokens": count,
        "lists": lists,
        "peak_gib": round(peak / 2**30, 3),
        "bytes_per_token": round(peak / count, 1),
        "seconds": round(seconds, 1),
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--lists", action="store_true")
    print(json.dumps(measure(**vars(parser.parse_args()))))
