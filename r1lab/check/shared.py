"""Sections that a pipeline's stages share, and those of a stage's own that replace them as a whole."""

from r1lab.findings import Finding
from r1lab.recipe.schema import StageRecipe

RESULTS = {
    "rollout": ("max_completion_length", "temperature", "top_p", "top_k"),
    "eval": ("tasks", "num_samples", "temperature", "max_completion_length"),
}
"""The keys of each section that change what a stage generates, and on which questions."""


def replaced_findings(recipe: StageRecipe) -> list[Finding]:
    """Warns about values of a shared section that a stage's own section, which replaces it, silently leaves out."""
    found, top = [], recipe._document.data
    if not recipe._keys:
        return []
    entry = top["stages"][recipe._keys[1]]
    for name, keys in RESULTS.items():
        shared, own, used = top.get(name), entry.get(name), getattr(recipe, name, None)
        if not isinstance(shared, dict) or not isinstance(own, dict) or used is None:
            continue
        known = type(used).model_fields
        for key in keys:
            if key in shared and key not in own and key in known and getattr(used, key) != shared[key]:
                value = getattr(used, key)
                now = f"is {value}" if isinstance(value, int | float) else "is not set"
                what = f"replaces the shared section `{name}` as a whole, so {key} {now} here"
                found.append(Finding("warning", "settings", what, f"write {key} here too", (name,)))
    return found
