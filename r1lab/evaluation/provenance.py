"""What a figure hangs on besides the questions: the very weights, the prompts' bytes, the grader's source."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import sysconfig
from pathlib import Path

from r1lab import __version__, grading, lookup
from r1lab.errors import UserError
from r1lab.models import loading
from r1lab.rundir import directory, storage

GRADING_PACKAGES = ("math-verify", "latex2sympy2-extended", "sympy", "reasoning-gym")
_FILES = ("*.json", "*.jinja", "*.safetensors", "*.bin", "*.model", "*.txt")
_BLOCK = 2**22
_INSTALLED = {"site-packages", "dist-packages"}  # folders


def fingerprint(path: str, revision: str | None = None, *, run_dir: Path | None = None) -> str | None:
    """What tells one model from another, whatever its folder is called.

    Args:
        path: A model, as a recipe names it.
        revision: Of a model of the Hub.
        run_dir: The folder of a run or of one of its stages, where the fingerprint of a folder is kept for the other
            stages of that run. It is used again as long as each file has its size and times: to read all weights of a
            model before every stage takes minutes.

    Returns:
        Of a folder `sha256:` over its weights, configuration and tokenizer, the names of these files included. Of a
        model of the Hub `commit:` and the commit that lies in the cache; None where it does not, as with a server's.

    >>> fingerprint("embedded:tiny-qwen2") == fingerprint("embedded:tiny-qwen2")
    True
    >>> fingerprint("no/such-model")
    """
    folder = Path(path if loading.is_adapter(path) else loading.resolve(path)).expanduser()
    if not folder.is_dir():
        return _commit(path, revision)
    files = sorted({file for pattern in _FILES for file in folder.glob(pattern)})
    if run_dir is None:
        return _sha256(files)
    # The time of the last change of the inode cannot be set by a program, unlike that of the last write.
    state = [[f.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for f in files for s in [f.stat()]]
    kept = directory.home(run_dir) / directory.FINGERPRINTS
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    entry = known.get(str(folder.absolute()))
    if entry is None or entry["files"] != state:
        entry = {"files": state, "fingerprint": _sha256(files)}
        storage.write_json_atomic(kept, known | {str(folder.absolute()): entry})
    return entry["fingerprint"]


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
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

    The files that a user's reward imports count too, unless they belong to an installed package.

    >>> sorted(grader_version([{"name": "accuracy"}]))
    ['packages', 'r1lab', 'sha256']
    """
    own = [*lookup.folder("rewards").glob("*.py"), *Path(grading.__file__).parent.glob("*.py")]
    own.append(Path(__file__).with_name("forms.py"))
    for reward in rewards:
        own += _sources(reward["name"])
    packages: dict[str, str] = {}
    wanted: set[str] = set(GRADING_PACKAGES)
    wanted.update(*(_distributions(reward["name"]) for reward in rewards))
    for name in sorted(wanted):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    digest = hashlib.sha256()
    for file in sorted(set(own)):
        try:
            digest.update(file.name.encode() + file.read_bytes())
        except OSError as error:
            raise UserError(f"rewards: {file}: {error.strerror}") from error
    return {"r1lab": __version__, "sha256": digest.hexdigest(), "packages": packages}


def _distributions(name: str) -> list[str]:
    """The installed packages of a reward that is named by its module; none for r1lab's own and for a file."""
    top = name.partition(".")[0]
    if ".py:" in name or "." not in name or top == "r1lab":
        return []
    return importlib.metadata.packages_distributions().get(top, [])


def _sources(name: str) -> list[Path]:
    """The files of a user's own reward: the one that holds it, and what it imports that is not installed."""
    file, of_a_file, _ = name.rpartition(".py:")
    module = name.rpartition(".")[0]
    waiting = [Path(f"{file}.py").expanduser()] if of_a_file else _files(module) if module else []
    found: list[Path] = []
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.append(file)
            waiting += _imported(file)
    return found


def _imported(file: Path) -> list[Path]:
    """The files that a file imports, anywhere in it, and that are not installed."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError):  # reported where the file is hashed or loaded
        return []
    found: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [file for alias in node.names for file in _files(alias.name)]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [file for alias in node.names for file in _files(f"{node.module}.{alias.name}")]
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for path in (base, *(base / alias.name for alias in node.names)):
                found += [one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()]
    return found


def _files(module: str) -> list[Path]:
    """The files of a module and its packages; none if they are installed or r1lab's own, which have versions."""
    found: list[Path] = []
    parts = module.split(".")
    for end in range(1, len(parts) + 1) if parts[0] != "r1lab" else ():
        try:
            spec = importlib.util.find_spec(".".join(parts[:end]))
        except ImportError:  # its package is a module, or does not import
            break
        if spec is None or spec.origin is None or not spec.has_location:
            break
        origin = Path(spec.origin)
        if origin.is_relative_to(sysconfig.get_path("stdlib")) or _INSTALLED & set(origin.parts):
            break
        found.append(origin)
    return found


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
