"""What was run: the run in one line, and its manifest and main settings as a table."""

import re
from collections import Counter
from pathlib import Path

from r1lab.report.content import Table
from r1lab.report.read import Run, clean, items, section
from r1lab.text import duration

_HOME = re.compile(r"(?:/home|/Users)/[^/\s'\"]+|/root\b")
_FOLDERS = re.compile(r"(?:~/|(?<![\w./:@<-])/[^/\s'\"<>]+/)(?:[^/\s'\"<>]+/)*")  # of a path, without its last name


def about(run: Run) -> Table:
    """The manifest and the recipe's main settings, one row each."""
    manifest, hardware = run.manifest, section(run.manifest, "hardware")
    git = section(manifest, "r1lab_git") or section(manifest, "git")
    gpus = items(hardware.get("gpus"))
    lines = len(clean(git.get("diff")).splitlines())
    changed = f", with {lines} lines of uncommitted changes" if git.get("diff") else ""
    seeds = section(manifest, "seeds")
    models = [section(stage.config, "model").get("path") for stage in run.stages]
    models = dict.fromkeys(_place(clean(path)) for path in models if path and not _is_own(run, clean(path)))
    rewards = [r for stage in run.stages for r in items(stage.config.get("rewards")) if isinstance(r, dict)]
    facts = {
        "recipe": clean(run.config.get("name")),
        "stages": ", ".join(f"{count} {kind}" for kind, count in Counter(s.kind for s in run.stages).items()),
        "models": ", ".join(models),
        "rewards": ", ".join(dict.fromkeys(clean(reward.get("name")) for reward in rewards)),
        "started": clean(manifest.get("time")),
        "resumed": f"{len(manifest['resumed'])} times" if isinstance(manifest.get("resumed"), list) else "",
        "time": duration(run.seconds) if run.seconds else "",
        "command": command(manifest),
        "seeds": ", ".join(dict.fromkeys(clean(seed) for seed in seeds.values())),
        "machine": ", ".join(
            filter(None, [
                clean(hardware.get("cpu")), _cores(hardware, "core"),
                f"{clean(hardware.get('memory_gib'))} GiB" if hardware else "", *map(clean, gpus),
            ])
        ),
        "versions": ", ".join(f"{clean(k)} {clean(v)}" for k, v in section(manifest, "versions").items()),
        "commit": f"{clean(git.get('commit'))[:10]}{changed}" if git.get("commit") else "",
    }  # fmt: skip
    return Table(["", ""], [[key, value] for key, value in facts.items() if value])


def homeless(value: object) -> str:
    """A text with `~` for home folders.

    >>> homeless("/home/joe/qwen"), homeless("see /root")
    ('~/qwen', 'see ~')
    """
    return _HOME.sub("~", clean(value))


def bare(value: object) -> str:
    """A text without the folders of absolute paths, which are private to the machine.

    >>> bare("data.path=/home/joe/sums.jsonl"), bare("/home/joe"), bare("km/h, <think></think>")
    ('data.path=sums.jsonl', '~', 'km/h, <think></think>')
    """
    return _FOLDERS.sub("", homeless(value))


def command(manifest: dict, *, without: tuple[str, ...] = ()) -> str:
    """The command of a run, from `r1lab` on and without the folders of absolute paths, "" if it is unknown.

    >>> command({"command": ["/home/joe/venv/bin/r1lab", "run", "/home/joe/my.yaml", "--tiny"]})
    'r1lab run my.yaml --tiny'
    """
    words = [bare(word) for word in items(manifest.get("command"))]
    start = next((place for place, word in enumerate(words) if Path(word).stem == "r1lab"), None)
    given = words if start is None else ["r1lab", *words[start + 1 :]]
    return " ".join(word for word in given if word not in without)


def _is_own(run: Run, path: str) -> bool:
    """Whether a path leads into the run itself, at its place or at the one that it had before it was moved."""
    home = clean(run.manifest.get("directory")) if run.pipeline else ""  # of the whole run, even for one stage
    return path.startswith(("@", f"{run.path.resolve()}/", *([f"{home}/"] if home else [])))


def _place(path: str) -> str:
    """The last three parts of an absolute path, without a person's home folder; other names as they are.

    >>> _place("Qwen/Qwen2.5-0.5B"), _place("/home/joe/qwen"), _place("/home/joe/of/many/models/qwen")
    ('Qwen/Qwen2.5-0.5B', '~/qwen', '…/many/models/qwen')
    """
    path = homeless(path)
    first, *parts = path.rstrip("/").split("/")
    return f"…/{'/'.join(parts[-3:])}" if first in ("", "~") and len(parts) > 3 else path


def summary(run: Run) -> str:
    """A run in one line."""
    kinds = Counter(stage.kind for stage in run.stages)
    what = f"pipeline of {len(run.stages)} stages" if run.pipeline else next(iter(kinds))
    gpus = items(section(run.manifest, "hardware").get("gpus"))
    where = ", ".join(map(clean, gpus)) if gpus else _cores(section(run.manifest, "hardware"), "CPU core")
    parts = [
        clean(run.config.get("name")),
        what,
        clean(run.manifest.get("time"))[:10],
        duration(run.seconds) if run.seconds else "not finished" if not run.result else "",
        where,
    ]
    return " · ".join(filter(None, parts))


def _cores(hardware: dict, word: str) -> str:
    cores = clean(hardware.get("cores"))
    return f"{cores} {word}{'s' * (cores != '1')}" if cores else ""
