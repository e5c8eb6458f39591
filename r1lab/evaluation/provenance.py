"""What a score depends on besides the questions: the exact weights, the bytes of the prompts, the grader's source."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import sysconfig
from collections.abc import Callable, Sequence
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
    """An identifier of a model that does not depend on the name of its folder.

    Args:
        path: A model, as a recipe names it.
        revision: The revision of a model of the Hub.
        run_dir: The folder of a run or of one of its stages, where the fingerprint of a folder is cached for the other
            stages of that run. The cached value is used while each file has the same size and times, because reading
            all weights of a model before every stage takes minutes.

    Returns:
        For a folder `sha256:` over its weights, configuration and tokenizer, and the names of these files. For a model
        of the Hub `commit:` and the commit in the cache; None if it is not in the cache, as with a server's model.

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
    # A program can set the time of the last write of a file, but not the time of the last change of its inode.
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
    except HFValidationError:  # not a Hub id, such as a server's name for a model
        return None
    return f"commit:{Path(found).parent.name}" if isinstance(found, str) else None


def grader_version(rewards: list[dict]) -> dict:
    """The version of the code that grades: r1lab's source, its grading packages, and the user's own rewards.

    It includes the files that a user's reward imports, unless they belong to an installed package.

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


def source_digest(parts: Sequence[Callable]) -> str:
    """A digest of the files in which classes and functions are written, such as those of an environment."""
    files = {Path(file) for part in parts if (file := inspect.getsourcefile(inspect.unwrap(part)))}
    return _sha256(sorted(files))


def _distributions(name: str) -> list[str]:
    """The installed packages of a reward that is named by its module; none for r1lab's own and for a file."""
    top = name.partition(".")[0]
    if ".py:" in name or "." not in name or top == "r1lab":
        return []
    return importlib.metadata.packages_distributions().get(top, [])


def _sources(name: str) -> list[Path]:
    """The files of a user's own reward: its own file, and the files that it imports and that are not installed."""
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
    """The files of a module and its packages; none if they are installed or r1lab's own, and so have versions."""
    found: list[Path] = []
    parts = module.split(".")
    for end in range(1, len(parts) + 1) if parts[0] != "r1lab" else ():
        try:
            spec = importlib.util.find_spec(".".join(parts[:end]))
        except ImportError:  # its package is a module, or fails to import
            break
        if spec is None or spec.origin is None or not spec.has_location:
            break
        origin = Path(spec.origin)
        if origin.is_relative_to(sysconfig.get_path("stdlib")) or _INSTALLED & set(origin.parts):
            break
        found.append(origin)
    return found


def prompts_digest(texts: list) -> dict:
    """The number of prompts, their bytes as sent to the engine, a digest of all of them, and the first one.

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
    """A digest of all columns of the rows: prompts, answers, tests, constraints.

    >>> rows_digest([{"prompt": "2+2?", "answer": "4"}]) == rows_digest([{"answer": "4", "prompt": "2+2?"}])
    True
    """
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()
