"""What was run: a run in one line, and its manifest and main settings as a table."""

import re
from collections import Counter

from r1lab.report.content import Table
from r1lab.report.read import Run, as_number, clean, items, section
from r1lab.text import duration


def about(run: Run) -> Table:
    """The manifest and the recipe's main settings, a row each."""
    manifest, hardware = run.manifest, section(run.manifest, "hardware")
    git = section(manifest, "r1lab_git") or section(manifest, "git")
    command = manifest.get("command")
    gpus = items(hardware.get("gpus"))
    seconds = as_number(run.result.get("seconds"))
    changed = f", with {len(clean(git.get('diff')).splitlines())} lines of changes" if git.get("diff") else ""
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
        "taken up again": f"{len(manifest['resumed'])} times" if isinstance(manifest.get("resumed"), list) else "",
        "took": duration(seconds) if seconds else "",
        "command": " ".join(map(clean, command)) if isinstance(command, list) else "",
        "seeds": ", ".join(dict.fromkeys(clean(seed) for seed in seeds.values())),
        "machine": ", ".join(
            filter(None, [
                clean(hardware.get("cpu")), _cores(hardware, "core"),
                f"{clean(hardware.get('memory_gib'))} GiB" if hardware else "", *map(clean, gpus),
            ])
        ),
        "versions": ", ".join(f"{clean(k)} {clean(v)}" for k, v in section(manifest, "versions").items()),
        "commit": f"{clean(git.get('commit'))}{changed}" if git.get("commit") else "",
    }  # fmt: skip
    return Table(["", ""], [[key, value] for key, value in facts.items() if value])


def _is_own(run: Run, path: str) -> bool:
    """Whether a path leads into the run itself, where it lies or where it lay before it was moved."""
    home = clean(run.manifest.get("directory")) if run.pipeline else ""  # for a stage by itself that of the whole run
    return path.startswith(("@", f"{run.path.resolve()}/", *([f"{home}/"] if home else [])))


def _place(path: str) -> str:
    """The last three parts of an absolute path, without a person's home folder; other names as they are.

    >>> _place("Qwen/Qwen2.5-0.5B"), _place("/home/joe/qwen"), _place("/home/joe/of/many/models/qwen")
    ('Qwen/Qwen2.5-0.5B', '~/qwen', '…/many/models/qwen')
    """
    path = re.sub(r"^(?:/home/[^/]+|/Users/[^/]+|/root)(?=/)", "~", path)
    first, *parts = path.rstrip("/").split("/")
    return f"…/{'/'.join(parts[-3:])}" if first in ("", "~") and len(parts) > 3 else path


def summary(run: Run) -> str:
    """A run in one line."""
    kinds = Counter(stage.kind for stage in run.stages)
    what = f"pipeline of {len(run.stages)} stages" if run.pipeline else next(iter(kinds))
    seconds = as_number(run.result.get("seconds"))
    gpus = items(section(run.manifest, "hardware").get("gpus"))
    where = ", ".join(map(clean, gpus)) if gpus else _cores(section(run.manifest, "hardware"), "CPU core")
    parts = [
        clean(run.config.get("name")),
        what,
        clean(run.manifest.get("time"))[:10],
        duration(seconds) if seconds else "not finished" if not run.result else "",
        where,
    ]
    return " · ".join(filter(None, parts))


def _cores(hardware: dict, word: str) -> str:
    cores = clean(hardware.get("cores"))
    return f"{cores} {word}{'s' * (cores != '1')}" if cores else ""
