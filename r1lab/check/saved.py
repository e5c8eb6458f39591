"""Whether the trained model can be saved, judging by the files of the model that it starts from."""

from r1lab.check.seen import Seen
from r1lab.findings import Finding
from r1lab.models import loading, saving


def saved_findings(seen: Seen, start: str, settings: dict) -> list[Finding]:
    """Settings in its generation config that transformers reads but refuses to write.

    Args:
        start: The model that the stage starts from, with `@STAGE/model` resolved.
        settings: Keyword arguments with which transformers loads that model's small files.
    """
    if not seen.recipe.trl or start.startswith("scratch:") or seen.tokenizer is None:
        return []
    try:
        config = loading.load_generation_config(start, **settings)
    except (OSError, ValueError):  # neither in the cache nor on the Hub, or custom code
        return []
    keys = ("model", "path")
    found = [Finding("warning", "saving", line, keys=keys) for line in saving.repaired(config)]
    try:
        config.validate(strict=True)
    except ValueError as error:
        what = f"its generation_config.json could not be saved after the training: {' '.join(str(error).split())}"
        found.append(Finding("error", "saving", what, "fix it in that file", keys))
    return found
