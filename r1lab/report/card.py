"""The model card of a finished `model/`: its type, origin, scores with intervals, and how to load it.

A card is `model/README.md` with the front matter that the Hugging Face Hub reads (docs/hub/model-cards).
It contains no paths of the machine that it was written on; what the files of a run do not show is called unknown.
"""

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path

from r1lab.errors import UserError
from r1lab.models import folders, smollm2
from r1lab.recipe import references
from r1lab.recipe.references import REFERENCE
from r1lab.recipe.schema import STAGES, on_policy, trains
from r1lab.report import read
from r1lab.report.about import bare, command
from r1lab.report.read import Run, Stage, as_number, clean, items, section
from r1lab.report.usage import code, sampling_of, saved_as_adapter
from r1lab.rundir import storage
from r1lab.text import percent

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def write(run_dir: Path, *, stage: Path) -> Path:
    """Writes the card of a stage's `model/` as its `README.md`, atomically, and returns where.

    Args:
        run_dir: The run directory, of one stage or of a pipeline.
        stage: The folder of the stage that made the model: `run_dir` itself, or `run_dir/NN-STAGE`.

    Raises:
        UserError: The stage has no `model/`.
    """
    folder = Path(stage) / "model"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: only a stage that has made a model gets a card")
    storage.write_text_atomic(folder / "README.md", page(run_dir, stage=stage))
    return folder / "README.md"


def page(run_dir: Path, *, stage: Path) -> str:
    """The card of a stage's `model/` as Markdown; `run_dir` and `stage` as for `write`."""
    run, place = _read(Path(run_dir)), Path(stage).resolve()
    this = next((s for s in run.stages if s.path.resolve() == place), None) or Stage(place.name, "?", place)
    base = _base(this, run.stages)
    origins = _origins(this, run.stages)
    evals = [s for s in run.stages if s.tasks and _model(s) == f"@{this.name}/model"] or _during(this)
    title = run.name if this.path.resolve() == run.path.resolve() else f"{run.name}: {this.name}"
    sections = {
        "Origin": _origin(origins),
        "Evaluations": _evaluations(run, evals),
        "Environment": _environment(this, evals),
        "Settings": _settings(this),
        "How it was made": _made(run, this),
        "Intended use": _use(run),
        "Limits": _limits(run, this, origins, evals),
        "How to load it": code(this, evals),
    }
    parts = [_front_matter(this, base), f"# {_plain(title)}", _sentence(this, base)]
    return "\n\n".join([*parts, *(f"## {head}\n\n{body}" for head, body in sections.items() if body)]) + "\n"


# What the files show


def _read(path: Path) -> Run:
    """A run with paths into its stages as `@STAGE/model`, and other paths without their folders."""
    try:
        run = read.read(path)
    except UserError:  # only the model is left of the run
        run = Run(path.resolve().name, path, {}, "", {}, {}, [], [], ["the files of the run are missing"])
    places = {}
    for stage in run.stages if run.pipeline else []:
        homes = [str(stage.path.resolve()), f"{clean(run.manifest.get('directory'))}/{stage.path.name}"]
        places |= dict.fromkeys(homes, stage.name)  # its place, and the one before it was moved

    def portable(value):
        if isinstance(value, dict):
            return {clean(key): portable(item) for key, item in value.items()}
        if isinstance(value, list):
            return [portable(item) for item in value]
        head, _, tail = value.rpartition("/") if isinstance(value, str) else ("", "", "")
        return f"@{places[head]}/{tail}" if head in places else bare(value) if isinstance(value, str) else value

    stages = [dataclasses.replace(stage, config=portable(stage.config)) for stage in run.stages]
    return dataclasses.replace(run, stages=stages, recipe=bare(run.recipe), problems=[bare(p) for p in run.problems])


def _model(stage: Stage) -> str:
    return clean(section(stage.config, "model").get("path"))


def _base(this: Stage, stages: list[Stage]) -> str:
    """The model that the first stage started from, found through `@STAGE/model`."""
    models, path = {stage.name: _model(stage) for stage in stages}, _model(this)
    for _ in stages:  # as often as there are stages: references in a damaged file may be circular
        found = REFERENCE.fullmatch(path)
        path = models.get(found[1], path) if found else path
    return path


def _hub_id(base: str) -> str:
    if smollm2.layers(base):
        return "HuggingFaceTB/SmolLM2-135M-Instruct"
    return base if _HUB_ID.fullmatch(base) and not Path(base).exists() else ""


# Sections


def _front_matter(this: Stage, base: str) -> str:
    reward, lora = this.kind == "reward", bool(section(this.config, "model").get("lora"))
    kind = ["reward-model" if reward else this.kind] if trains(this.kind) else []
    lines = ["---", *([f"base_model: {_hub_id(base)}"] if _hub_id(base) else [])]
    lines += [f"library_name: {'peft' if saved_as_adapter(this) else 'transformers'}"]
    lines += [f"pipeline_tag: {'text-classification' if reward else 'text-generation'}"]
    return "\n".join([*lines, f"tags: [{', '.join(['r1lab', 'trl', *kind, *(['lora'] if lora else [])])}]", "---"])


def _sentence(this: Stage, base: str) -> str:
    kind = (
        "A LoRA adapter"
        if saved_as_adapter(this)
        else "A reward model"
        if this.kind == "reward"
        else "A language model"
    )
    source = f"[{base}](https://huggingface.co/{base})" if base and _hub_id(base) == base else _code(base or "?")
    how = STAGES[this.kind].words if trains(this.kind) else "training of an unknown kind"
    source = f"random weights, {source}" if base.startswith("scratch:") else source if base else "an unknown base"
    return f"{kind}, made from {source} by {how} with r1lab. The licenses of its base and of its data apply."


def _during(this: Stage) -> list[Stage]:
    """The last evaluation during a training stage, as a stage named with its step; none, or one."""
    evals = [(f"{this.name}, step {row['step']}", row["tasks"]) for row in this.evals[-1:] if row["tasks"]]
    return [dataclasses.replace(this, name=name, kind="eval", result={"tasks": tasks}) for name, tasks in evals]


def _origins(this: Stage, stages: list[Stage]) -> list[Stage]:
    """The stages that this one builds on, in the order of the run, and itself."""
    wanted, found = {this.name}, []
    for stage in reversed(stages if this in stages else [this]):  # references point backwards only
        if stage.name in wanted:
            wanted |= references.stages(stage.config)
            found.append(stage)
    return found[::-1]


def _origin(origins: list[Stage]) -> str:
    rows = []
    for stage in origins:
        result, data = stage.result, section(stage.config, "data")
        came = f"{clean(result.get('steps')) or '?'} steps" if trains(stage.kind) else "finished"
        came = f"{clean(result['kept'])} of {clean(result.get('sampled'))} kept" if "kept" in result else came
        given = [f"{key} {_short(value)}" for key, value in data.items() if key != "builder" and _is_set(value)]
        shown = _code(", ".join([clean(data.get("builder")) or "?", *given]))
        rows.append([_code(stage.name), stage.kind, _code(_model(stage)), shown, came if result else "unfinished"])
    return _table(["stage", "kind", "starts from", "data", "result"], rows)


def _evaluations(run: Run, evals: list[Stage]) -> str:
    if not evals:
        return "None: no stage of the run evaluated this model, so its quality is unknown."
    rows, protocols = [], []
    for stage in evals:
        for task, scores in stage.tasks.items():
            for key, bounds in (("avg", "ci95"), ("greedy", "greedy_ci95")):
                ci95 = [bound for bound in map(as_number, items(scores.get(bounds))) if bound is not None]
                score = percent(as_number(scores.get(key)), ci95 if len(ci95) == 2 else None)
                measure = f"avg@{clean(scores.get('n_samples'))}" if key == "avg" else key
                if key in scores:
                    rows.append([_code(stage.name), _code(task), clean(scores.get("n_questions")), measure, score])
        sampling = [f"{key} {_short(value)}" for key, value in sampling_of(stage).items()]
        prompt = section(stage.config, "prompt")
        template = "prompt.text" if prompt.get("text") else f"template {Path(clean(prompt.get('template'))).name}"
        tasks = f"tasks {_short(section(stage.config, 'eval').get('tasks'))}"
        protocols.append(f"{_code(stage.name)}: {_code(', '.join([*sampling, template, tasks]))}")
    parts = [
        _table(["evaluation", "task", "questions", "measure", "% correct [95 % interval]"], rows),
        _list(protocols),
    ]
    parts += ["avg@n is the mean over n sampled answers to a question, greedy the answer at temperature 0."]
    changes = [
        [_code(row["task"]), clean(row.get("metric")), f"{_code(row['before'])} → {_code(row['after'])}",
         clean(row.get("n_questions")), percent(row["diff"], row["ci95"], signed=True)]
        for row in run.compare if {stage.name for stage in evals} & {row["before"], row["after"]}
    ]  # fmt: skip
    if changes:
        heads = ["task", "measure", "evaluations", "questions", "difference, points [95 % interval]"]
        parts += ["Differences between evaluations, paired by question:", _table(heads, changes)]
    return "\n\n".join(parts)


def _environment(this: Stage, evals: list[Stage]) -> str:
    """What the model acted in, its tools, and how the episodes of the evaluations ended; "" without episodes."""
    given, tools = section(this.config, "environment"), items(this.config.get("tools"))
    if not given and not tools:
        return ""
    name = clean(given.get("name"))
    settings = _short({key: value for key, value in given.items() if key != "name"})
    what = f"the environment {_code(name)}" if name else "an environment that only offers tools"
    did = "Trained on" if this.kind == "grpo" else "Used in"
    lines = [f"{did} episodes of several turns in {what}" + (f", with {_code(settings)}." if given else ".")]
    lines += [f"Tools: {', '.join(_code(_short(tool)) for tool in tools)}."] if tools else []
    for stage in evals:
        for task, scores in stage.tasks.items():
            if ends := section(scores, "ends"):
                shares = ", ".join(f"{clean(end)} {percent(as_number(share))} %" for end, share in ends.items())
                means = [clean(scores.get(key)) or "?" for key in ("turns", "calls")]
                failed = as_number(scores.get("call_errors"))
                calls = f"per episode {means[0]} turns and {means[1]} calls"
                calls += f", {percent(failed)} % of the replies are errors" if failed else ""
                lines.append(f"{_code(stage.name)}, {_code(task)}: {calls}; ends: {shares}.")
    shown = f"; `r1lab play {name} .` plays an episode" if name and "`" not in name else ""
    lines.append(f"The code below generates a single turn, without any tool{shown}.")
    return _list(lines)


def _settings(this: Stage) -> str:
    rows = {key: value for key, value in section(this.config, "model").items() if key != "path"}
    rows |= section(this.config, "prompt")
    if on_policy(this.kind):
        rewards = [reward for reward in items(this.config.get("rewards")) if isinstance(reward, dict)]
        rows |= {f"reward {clean(reward.pop('name', ''))}": reward for reward in map(dict, rewards)}
        rows |= sampling_of(this)
    rows |= section(this.config, "train")
    table = [[_code(key), _code(_short(value))] for key, value in rows.items() if _is_set(value)]
    return _table(["setting", "value"], table) if table else "Unknown."


def _made(run: Run, this: Stage) -> str:
    hardware, git = (section(run.manifest, key) for key in ("hardware", "r1lab_git"))
    git = git or section(run.manifest, "git")
    typed = command(run.manifest, without=("--resume",))
    machine = [f"{hardware.get('cores')} cores, {hardware.get('cpu')}, {hardware.get('memory_gib')} GiB"]
    dirty = ", with uncommitted changes" if git.get("diff") else ""
    whole = f" of the run's {run.seconds:.1f}" if run.pipeline and run.seconds else ""
    facts = {
        "command": _code(typed) if typed else "",
        "seed": clean(this.config.get("seed")),
        "started": _plain(run.manifest.get("time")),
        "seconds": clean(this.result.get("seconds")) + whole,
        "hardware": _plain("; ".join([*machine, *map(clean, items(hardware.get("gpus")))])) if hardware else "",
        "versions": _plain(", ".join(f"{k} {v}" for k, v in section(run.manifest, "versions").items())),
        "commit": f"{_code(git['commit'])}{dirty}" if git.get("commit") else "",
    }
    repeat = "The run's `config.yaml` contains every setting: `r1lab run config.yaml --name again` repeats it."
    return "\n\n".join([_list([f"{name}: {fact or 'unknown'}" for name, fact in facts.items()]), repeat])


def _use(run: Run) -> str:
    head = itertools.takewhile(lambda line: re.match("# (?!Hardware)", line), run.recipe.split("\n"))
    said = " ".join(line.removeprefix("# ") for line in head)
    quoted = f" The recipe describes the run:\n\n> {_plain(said)}" if said else ""
    purpose = "A research artifact for studying its recipe and reproducing its results, not for production use."
    return f"{purpose}{quoted}"


def _limits(run: Run, this: Stage, origins: list[Stage], evals: list[Stage]) -> str:
    tasks = {task: clean(s.get("n_questions")) for e in evals for task, s in e.tasks.items() if "/" not in task}
    evaluated = (
        ", ".join(f"{_code(task)} ({count} questions)" for task, count in tasks.items()) or "nothing in its run"
    )
    builders = re.findall(r"'builder': '([^']+)'", str([section(stage.config, "data") for stage in origins]))
    builders = [name for name in dict.fromkeys(builders) if name not in ("rows", "mix")]
    data = ", ".join(map(_code, builders))
    given = [task for e in evals for task in items(section(e.config, "eval").get("tasks")) if isinstance(task, dict)]
    builder_of = {clean(task.get("name") or task.get("builder")): clean(task.get("builder")) for task in given}
    general = any(builder_of.get(task, task) not in builders for task in tasks)
    lines = [
        _size(this.path / "model"),
        f"Apart from its base, all of its training data comes from {data or 'an unknown source'}.",
        f"Evaluated on {evaluated}, {'' if general else 'on no general task, '}and not for safety.",
    ]
    if tasks:
        lines.append("Intervals are over questions, for one run with one seed; other seeds may differ by more.")
    if this.kind == "reward":
        lines.append(
            "A reward model scores a response and does not generate text; a policy trained on it for long "
            "exploits its errors."
        )
    if saved_as_adapter(this):
        lines.append("It is only an adapter: it needs peft and the base that its `adapter_config.json` names.")
    return _list([*lines, *(f"Unknown: {_plain(problem)}" for problem in run.problems if "samples/" not in problem)])


def _size(folder: Path) -> str:
    """The number of parameters, from the headers of the safetensors, and the context in tokens."""
    count, context = 0, None
    try:
        count = sum(math.prod(shape) for shape in folders.shapes(folder).values())
        context = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # half-written files
        pass
    size = f"{count:,}" if count else "an unknown number of"
    return f"It has {size} parameters and a context of {clean(context) or 'an unknown number of'} tokens."


# Markdown


def _is_set(value: object) -> bool:
    return value not in (None, {}, []) and value is not False


def _short(value: object) -> str:
    """A value of a recipe on one line, without unset keys."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items() if _is_set(item)) + "}"
    return f"[{', '.join(map(_short, value))}]" if isinstance(value, list) else clean(value)


def _plain(value: object) -> str:
    """A text with the special characters of Markdown escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&]|^[-+=])", r"\\\1", " ".join(clean(value).split()))


def _code(value: object) -> str:
    """A text in a code span with enough backticks to contain those of the text."""
    text = " ".join(clean(value).split()) or "unknown"
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    cells = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
