"""Whether the model that a training makes can be saved, as far as the files of the one it starts from tell."""

from r1lab.check.seen import Seen
from r1lab.findings import Finding
from r1lab.models import loading, saving


def saved_findings(seen: Seen, start: str, settings: dict) -> list[Finding]:
    """What its generation config holds that transformers reads and refuses to write.

    Args:
        start: The model that the stage starts from, `@STAGE/model` followed.
        settings: How transformers loads that model's small files.
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
        found.append(Finding("error", "saving", what, "correct it in that file", keys))
    return found
