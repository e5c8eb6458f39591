"""What a figure hangs on besides the questions: the very weights, the prompts' bytes, the grader's source."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

from r1lab import __version__, lookup, models
from r1lab.errors import UserError

GRADING_PACKAGES = ("math-verify", "latex2sympy2-extended", "sympy", "reasoning-gym")
_FILES = ("*.json", "*.jinja", "*.safetensors", "*.bin", "*.model", "*.txt")
_BLOCK = 2**22


def fingerprint(path: str, revision: str | None = None) -> str | None:
    """What tells one model from another, whatever its folder is called.

    Returns:
        Of a folder `sha256:` over its weights, configuration and tokenizer, the names of these files included. Of a
        model of the Hub `commit:` and the commit that lies in the cache; None where it does not, as with a server's.

    >>> fingerprint("embedded:tiny-qwen2") == fingerprint("embedded:tiny-qwen2")
    True
    >>> fingerprint("no/such-model")
    """
    folder = Path(path if models.is_adapter(path) else models.resolve(path)).expanduser()
    if not folder.is_dir():
        return _commit(path, revision)
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _FILES for file in folder.glob(pattern)}):
        digest.update(file.name.encode())
        with file.open("rb") as data:
            while block := data.read(_BLOCK):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _commit(name: str, revision: str | None) -> str | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:  # no id of the Hub, such as a server's name for a model
        return None
    return f"commit:{Path(found).parent.name}" if isinstance(found, str) else None


def grader_version(rewards: list[dict]) -> dict:
    """The source that says what is right: of r1lab, of the packages it asks, and of the user's own rewards.

    >>> sorted(grader_version([{"name": "accuracy"}]))
    ['packages', 'r1lab', 'sha256']
    """
    package = Path(__file__).parent
    own = [*lookup.folder("rewards").glob("*.py"), *(package / "verify").glob("*.py")]
    own += [package / "grader.py", package / "forms.py"]
    for reward in rewards:
        if ".py:" in reward["name"]:
            own.append(Path(reward["name"].rpartition(":")[0]).expanduser())
    packages = {}
    for name in GRADING_PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    digest = hashlib.sha256()
    for file in sorted(own):
        try:
            digest.update(file.name.encode() + file.read_bytes())
        except OSError as error:
            raise UserError(f"rewards: {file}: {error.strerror}") from error
    return {"r1lab": __version__, "sha256": digest.hexdigest(), "packages": packages}


def prompts_digest(texts: list) -> dict:
    """How many prompts, their bytes as the engine is sent them, a digest of all, and the first one whole.

    >>> prompts_digest(["2+2?"])["bytes"]
    4
    """
    sent = [text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) for text in texts]
    digest = hashlib.sha256()
    for text in sent:
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    total = sum(len(text.encode("utf-8", "surrogatepass")) for text in sent)
    return {"questions": len(sent), "bytes": total, "sha256": digest.hexdigest(), "first": sent[0]}


def rows_digest(rows: list[dict]) -> str:
    """A digest of all that the rows hold besides their prompts too: answers, tests, constraints.

    >>> rows_digest([{"prompt": "2+2?", "answer": "4"}]) == rows_digest([{"answer": "4", "prompt": "2+2?"}])
    True
    """
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()
