"""Whether a tokenizer fits its model: an EOS token, a padding token, and ids within the embedding."""

from typing import TYPE_CHECKING, cast

from r1lab.check.seen import Seen
from r1lab.findings import Finding
from r1lab.models import loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEYS = ("model", "path")


def fit_findings(seen: Seen, tokenizer: "PreTrainedTokenizerBase", start: str, settings: dict) -> list[Finding]:
    """Whether generation can end, rows can be padded, and each token has a row in the model's embedding.

    Args:
        start: The model that the stage starts from, with `@STAGE/model` resolved.
        settings: Keyword arguments with which transformers loads that model's small files.
    """
    if tokenizer.eos_token_id is None:
        what = "its tokenizer has no EOS token, so completions would never end"
        fix = "set eos_token in its tokenizer_config.json"
        fix += ", or train.eos_token" if seen.recipe.stage == "sft" else ""
        return [Finding("error", "prompt", what, fix, _KEYS)]
    pad = seen.train.get("pad_token")
    if pad is not None and pad not in tokenizer.get_vocab():
        what = f"{pad!r} is not a token of the model's tokenizer, which pads with {tokenizer.pad_token}"
        return [Finding("error", "prompt", what, "remove it", ("train", "pad_token"))]
    vocabulary = _vocabulary(start, settings)
    if vocabulary is None:
        return []
    # transformers computes both in __getattr__, whose type covers all special tokens and lists of them.
    used = {cast(int, tokenizer.eos_token_id), cast(int, tokenizer.pad_token_id)}
    used |= {i for example in seen.examples for ids in example.values() for i in ids}
    used |= {i for ids in seen.prompt_ids for i in ids}
    beyond = sorted(i for i in used if i >= vocabulary)
    fix = "use the model that this tokenizer belongs to, or resize the embedding and save the model again"
    if beyond:
        token = tokenizer.convert_ids_to_tokens(beyond[0])
        what = f"its tokenizer gives {token!r} the id {beyond[0]}, but the model's embedding ends at {vocabulary - 1}"
        return [Finding("error", "prompt", what, fix, _KEYS)]
    more = [i for i in tokenizer.get_vocab().values() if i >= vocabulary]
    if more:
        token = tokenizer.convert_ids_to_tokens(min(more))
        what = f"its tokenizer has {len(more)} token{'s' * (len(more) > 1)} beyond the model's embedding, such as"
        return [Finding("warning", "prompt", f"{what} {token!r}: a text that contains one ends the run", fix, _KEYS)]
    return []


def _vocabulary(start: str, settings: dict) -> int | None:
    """The rows of a model's embedding according to its config; None if the config does not say, or for an adapter."""
    from transformers import AutoConfig

    if loading.is_adapter(start) or start.startswith("scratch:"):
        return None
    try:
        config = AutoConfig.from_pretrained(loading.resolve(start), **settings)
    except (OSError, ValueError):  # reported by the tokenizer's loading, or custom code
        return None
    return getattr(config.get_text_config(), "vocab_size", None)
