"""The model card of a finished `model/`: what it is, what it came from, its figures with intervals, how to load it.

A card is `model/README.md` with the front matter that the Hugging Face Hub reads (docs/hub/model-cards).
It holds no path of the machine that it was written on; what the files of a run do not tell is called unknown.
"""

import dataclasses
import json
import math
import re
import textwrap
from pathlib import Path

from r1lab import prompts, rundir
from r1lab.errors import UserError
from r1lab.report import read
from r1lab.report.read import Run, Stage, clean, items, number, section
from r1lab.summary import percent

_REFERENCE = re.compile(r"@([a-z0-9_-]+)/(?:model|samples)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_HOME = re.compile(r"(?:/home|/Users)/[^/\s'\"]+|/root\b")
_FOLDERS = re.compile(r"(?:~/|(?<![\w./:@<-])/[^/\s'\"<>]+/)(?:[^/\s'\"<>]+/)*")  # of a path, without its last name
_KINDS = {
    "sft": "supervised fine-tuning",
    "grpo": "reinforcement learning (GRPO)",
    "dpo": "direct preference optimisation",
    "reward": "training as a reward model",
}


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
        raise UserError(f"{folder}: no such folder: a card is written for a stage that has made a model")
    rundir.write_text_atomic(folder / "README.md", text(run_dir, stage=stage))
    return folder / "README.md"


def text(run_dir: Path, *, stage: Path) -> str:
    """The card of a stage's `model/` as Markdown; `run_dir` and `stage` as for `write`."""
    run, place = _read(Path(run_dir)), Path(stage).resolve()
    this = next((s for s in run.stages if s.path.resolve() == place), None) or Stage(place.name, "?", place)
    base = _base(this, run.stages)
    origins = _origins(this, run.stages)
    evals = [s for s in run.stages if s.tasks and _model(s) == f"@{this.name}/model"]
    title = run.name if this.path.resolve() == run.path.resolve() else f"{run.name}: {this.name}"
    sections = {
        "What it came from": _came_from(origins),
        "Evaluations": _evaluations(run, evals),
        "Settings": _settings(this),
        "How it was made": _made(run, this),
        "Intended use": _use(run),
        "Limits": _limits(run, this, origins, evals),
        "How to load it": _load(this, evals),
    }
    parts = [_front_matter(this, base), f"# {_plain(title)}", _sentence(this, base)]
    return "\n\n".join([*parts, *(f"## {head}\n\n{body}" for head, body in sections.items())]) + "\n"


# What the files tell


def _read(path: Path) -> Run:
    """A run with paths into its stages as `@STAGE/model`, and other paths without their folders."""
    try:
        run = read.read(path)
    except UserError:  # nothing is left of the run but the model
        run = Run(path.resolve().name, path, {}, "", {}, {}, [], [], ["none of the run's files are there"])
    places = {}
    for stage in run.stages if run.pipeline else []:
        homes = [str(stage.path.resolve()), f"{clean(run.manifest.get('directory'))}/{stage.path.name}"]
        places |= dict.fromkeys(homes, stage.name)  # where it lies, and where it lay before it was moved

    def told(value):
        if isinstance(value, dict):
            return {clean(key): told(item) for key, item in value.items()}
        if isinstance(value, list):
            return [told(item) for item in value]
        head, _, tail = value.rpartition("/") if isinstance(value, str) else ("", "", "")
        return f"@{places[head]}/{tail}" if head in places else _bare(value) if isinstance(value, str) else value

    stages = [dataclasses.replace(stage, config=told(stage.config)) for stage in run.stages]
    return dataclasses.replace(run, stages=stages, recipe=_bare(run.recipe), problems=[_bare(p) for p in run.problems])


def _bare(value: str) -> str:
    """A text without the folders that tell whose machine it was.

    >>> _bare("data.path=/home/joe/sums.jsonl"), _bare("/home/joe"), _bare("km/h, <think></think>")
    ('data.path=sums.jsonl', '~', 'km/h, <think></think>')
    """
    return _FOLDERS.sub("", _HOME.sub("~", clean(value)))


def _model(stage: Stage) -> str:
    return clean(section(stage.config, "model").get("path"))


def _base(this: Stage, stages: list[Stage]) -> str:
    """What the line of stages started from, followed back through `@STAGE/model`."""
    models, path = {stage.name: _model(stage) for stage in stages}, _model(this)
    for _ in stages:  # no longer than there are stages: a damaged file may send it in circles
        found = _REFERENCE.fullmatch(path)
        path = models.get(found[1], path) if found else path
    return path


def _hub_id(base: str) -> str:
    if base == "embedded:smollm2-135m":
        return "HuggingFaceTB/SmolLM2-135M-Instruct"
    return base if _HUB_ID.fullmatch(base) and not Path(base).exists() else ""


def _is_adapter(this: Stage) -> bool:
    folder = this.path / "model"
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


# Sections


def _front_matter(this: Stage, base: str) -> str:
    reward, lora = this.kind == "reward", bool(section(this.config, "model").get("lora"))
    kind = ["reward-model" if reward else this.kind] if this.kind in _KINDS else []
    lines = ["---", *([f"base_model: {_hub_id(base)}"] if _hub_id(base) else [])]
    lines += [f"library_name: {'peft' if _is_adapter(this) else 'transformers'}"]
    lines += [f"pipeline_tag: {'text-classification' if reward else 'text-generation'}"]
    return "\n".join([*lines, f"tags: [{', '.join(['r1lab', 'trl', *kind, *(['lora'] if lora else [])])}]", "---"])


def _sentence(this: Stage, base: str) -> str:
    kind = "A LoRA adapter" if _is_adapter(this) else "A reward model" if this.kind == "reward" else "A language model"
    source = f"[{base}](https://huggingface.co/{base})" if base and _hub_id(base) == base else _code(base or "?")
    how = _KINDS.get(this.kind, "training of an unknown kind")
    source = f"random weights, {source}" if base.startswith("scratch:") else source if base else "an unknown base"
    return f"{kind}, made from {source} by {how} with r1lab. The licence of its base holds, and those of its data do."


def _origins(this: Stage, stages: list[Stage]) -> list[Stage]:
    """The stages that this one builds on, in the order of the run, and itself."""
    wanted, found = {this.name}, []
    for stage in reversed(stages if this in stages else [this]):  # references point backwards only
        if stage.name in wanted:
            wanted |= set(_REFERENCE.findall(str(stage.config)))
            found.append(stage)
    return found[::-1]


def _came_from(origins: list[Stage]) -> str:
    rows = []
    for stage in origins:
        result, data = stage.result, section(stage.config, "data")
        came = f"{clean(result.get('steps')) or '?'} steps" if stage.kind in _KINDS else "finished"
        came = f"{clean(result['kept'])} of {clean(result.get('sampled'))} kept" if "kept" in result else came
        given = [f"{key} {_short(value)}" for key, value in data.items() if key != "builder" and _is_set(value)]
        shown = _code(", ".join([clean(data.get("builder")) or "?", *given]))
        rows.append([_code(stage.name), stage.kind, _code(_model(stage)), shown, came if result else "unfinished"])
    return _table(["stage", "kind", "starts from", "data", "came to"], rows)


def _evaluations(run: Run, evals: list[Stage]) -> str:
    if not evals:
        return "None: no stage of the run evaluated this model, so how good it is is unknown."
    rows, asked = [], []
    for stage in evals:
        for task, scores in stage.tasks.items():
            for key, bounds in (("avg", "ci95"), ("greedy", "greedy_ci95")):
                ci95 = [number(bound) for bound in items(scores.get(bounds))]
                figure = percent(number(scores.get(key)), ci95 if len(ci95) == 2 and None not in ci95 else None)
                measure = f"avg@{clean(scores.get('n_samples'))}" if key == "avg" else key
                if key in scores:
                    rows.append([_code(stage.name), _code(task), clean(scores.get("n_questions")), measure, figure])
        sampling = [f"{key} {_short(value)}" for key, value in _sampling(stage).items()]
        template = f"template {section(stage.config, 'prompt').get('template')}"
        tasks = f"tasks {_short(section(stage.config, 'eval').get('tasks'))}"
        asked.append(f"{_code(stage.name)}: {_code(', '.join([*sampling, template, tasks]))}")
    parts = [_table(["evaluation", "task", "questions", "measure", "right, % [95 % interval]"], rows), _list(asked)]
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


def _sampling(stage: Stage) -> dict:
    """How an evaluation samples, or the rollouts of a training do, in the recipe's names."""
    own = section(stage.config, "eval") if stage.kind == "eval" else {}
    both = section(stage.config, "rollout") | {key: value for key, value in own.items() if value is not None}
    number_of = "num_samples" if stage.kind == "eval" else "num_generations"
    keys = (number_of, "temperature", "top_p", "top_k", "max_completion_length")
    return {key: both[key] for key in keys if key in both}


def _settings(this: Stage) -> str:
    rows = {key: value for key, value in section(this.config, "model").items() if key != "path"}
    rows |= section(this.config, "prompt")
    if this.kind == "grpo":
        rewards = [reward for reward in items(this.config.get("rewards")) if isinstance(reward, dict)]
        rows |= {f"reward {clean(reward.pop('name', ''))}": reward for reward in map(dict, rewards)}
        rows |= _sampling(this)
    rows |= section(this.config, "train")
    table = [[_code(key), _code(_short(value))] for key, value in rows.items() if _is_set(value)]
    return _table(["setting", "value"], table) if table else "Unknown."


def _made(run: Run, this: Stage) -> str:
    hardware, git = (section(run.manifest, key) for key in ("hardware", "r1lab_git"))
    git = git or section(run.manifest, "git")
    words = [_bare(clean(word)) for word in items(run.manifest.get("command"))]
    start = next((i for i, word in enumerate(words) if Path(word).stem == "r1lab"), len(words))
    command = " ".join(["r1lab", *(word for word in words[start + 1 :] if word != "--resume")])
    machine = [f"{hardware.get('cores')} cores, {hardware.get('cpu')}, {hardware.get('memory_gib')} GiB"]
    dirty = ", with uncommitted changes" if git.get("diff") else ""
    whole = f" of the run's {clean(run.result.get('seconds'))}" if run.pipeline and run.result else ""
    facts = {
        "command": _code(command) if start < len(words) else "",
        "seed": clean(this.config.get("seed")),
        "started": _plain(run.manifest.get("time")),
        "seconds": clean(this.result.get("seconds")) + whole,
        "hardware": _plain("; ".join([*machine, *map(clean, items(hardware.get("gpus")))])) if hardware else "",
        "versions": _plain(", ".join(f"{k} {v}" for k, v in section(run.manifest, "versions").items())),
        "commit": f"{_code(git['commit'])}{dirty}" if git.get("commit") else "",
    }
    repeat = "The run's `config.yaml` holds every setting: `r1lab run config.yaml --name again` repeats it."
    return "\n\n".join([_list([f"{name}: {fact or 'unknown'}" for name, fact in facts.items()]), repeat])


def _use(run: Run) -> str:
    said = re.match(r"(?:# (?!Hardware).*\n)*", run.recipe)[0].replace("\n# ", " ").removeprefix("# ")
    quoted = f" Of the run its recipe says:\n\n> {_plain(said)}" if said else ""
    return f"A research artefact: for studying its recipe and repeating its figures, not for use in earnest.{quoted}"


def _limits(run: Run, this: Stage, origins: list[Stage], evals: list[Stage]) -> str:
    tasks = {task: clean(s.get("n_questions")) for e in evals for task, s in e.tasks.items() if "/" not in task}
    told = ", ".join(f"{_code(task)} ({count} questions)" for task, count in tasks.items()) or "nothing in its run"
    builders = re.findall(r"'builder': '([^']+)'", str([section(stage.config, "data") for stage in origins]))
    data = ", ".join(_code(name) for name in dict.fromkeys(builders) if name not in ("rows", "mix"))
    lines = [
        _size(this.path / "model"),
        f"Its base aside, all that it was trained on comes from {data or 'data that is unknown'}.",
        f"Evaluated on {told}, on no general task, and not for safety.",
    ]
    if tasks:
        lines.append("Intervals are over questions, of one run with one seed: another seed may differ by more.")
    if this.kind == "reward":
        lines.append("A reward model scores a turn and writes none; trained on for long, a policy finds its mistakes.")
    if _is_adapter(this):
        lines.append("An adapter alone: it needs peft and the base that its `adapter_config.json` names.")
    return _list([*lines, *(f"Unknown: {_plain(problem)}" for problem in run.problems if "samples/" not in problem)])


def _size(folder: Path) -> str:
    """Parameters, by the headers of the safetensors (8 bytes of length, then JSON), and context in tokens."""
    count, context = 0, None
    try:
        for path in folder.glob("*.safetensors"):
            with path.open("rb") as file:
                header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size)))
            count += sum(math.prod(tensor["shape"]) for key, tensor in header.items() if key != "__metadata__")
        context = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # half-written files
        pass
    size = f"{count:,}" if count else "an unknown number of"
    return f"It has {size} parameters and a context of {clean(context) or 'an unknown number of'} tokens."


# How to load it


def _load(this: Stage, evals: list[Stage]) -> str:
    """Code blocks that run in the card's folder as they are, with the prompt and the sampling of the evaluations."""
    asked = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_completion_length": 256}
    asked |= {k: v for k, v in _sampling((evals or [this])[0]).items() if k in asked and number(v) is not None}
    limit, adapter, reward = asked.pop("max_completion_length"), _is_adapter(this), this.kind == "reward"
    template = clean(section(this.config, "prompt").get("template")) or "none"
    sampling = ", ".join(f"{key}={value}" for key, value in asked.items())
    drawn = f"do_sample=True, {sampling}" if asked["temperature"] else "do_sample=False"
    special = not reward and template in ("none", "r1-zero")  # a chat template has written them already
    trust = ", trust_remote_code=True" if section(this.config, "model").get("trust_remote_code") is True else ""
    auto = f"AutoModelFor{'SequenceClassification' if reward else 'CausalLM'}"
    folder, prompt = 'folder = "."  # where this card lies, or the id on the Hub', _prompt(this, evals, template)
    transformers = [
        f"from transformers import {auto}, AutoTokenizer\n",
        folder,
        f"tokenizer = AutoTokenizer.from_pretrained(folder{trust})",
        f'model = {auto}.from_pretrained(folder, dtype="auto"{trust})',
        *prompt,
        f'inputs = tokenizer(prompt, add_special_tokens={special}, return_tensors="pt")',
    ]
    vllm = [
        'import os\n\nos.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # runs in a plain script',
        f"from vllm import LLM, {'PoolingParams' if reward else 'SamplingParams'}\n",
        folder,
        f'llm = LLM(folder, runner="pooling"{trust})' if reward else f"llm = LLM(folder{trust})",
        "tokenizer = llm.get_tokenizer()",
        *prompt,
        f'inputs = {{"prompt_token_ids": tokenizer(prompt, add_special_tokens={special})["input_ids"]}}',
    ]
    if adapter:
        vllm[0] = f"import json\n{vllm[0]}"
        vllm[1] = vllm[1].replace("\n", "\nfrom vllm.lora.request import LoRARequest\n")
        vllm[3] = 'adapter = json.load(open("adapter_config.json"))\nllm = LLM(adapter["base_model_name_or_path"], '
        vllm[3] += f'enable_lora=True, max_lora_rank=adapter["r"]{trust})'
    if reward:
        transformers += ["print(model(**inputs).logits.item())"]
        vllm += ["params = PoolingParams(use_activation=False)"]
        vllm += ["print(llm.classify([inputs], pooling_params=params)[0].outputs.probs)"]
    else:
        lora = ', lora_request=LoRARequest("adapter", 1, folder)' if adapter else ""
        transformers += [f"output = model.generate(**inputs, {drawn}, max_new_tokens={limit})"]
        transformers += [
            'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'
        ]
        vllm += [f"params = SamplingParams({sampling}, max_tokens={limit})"]
        vllm += [f"print(llm.generate([inputs], params{lora})[0].outputs[0].text)"]
    blocks = {"transformers": transformers, "vLLM": vllm}
    return "\n\n".join(f"With {name}:\n\n```python\n{chr(10).join(code)}\n```" for name, code in blocks.items())


def _prompt(this: Stage, evals: list[Stage], template: str) -> list[str]:
    """Code that sets `prompt` as the training had it (`r1lab.prompts`), for a question that the run was asked."""
    files = [*sorted(this.path.glob("samples/step_*.jsonl"))[:1], *(e.path / "samples/questions.jsonl" for e in evals)]
    rows = [next(read.rows(path, []), {}) for path in files]
    question = next((clean(row["prompt"]) for row in rows if isinstance(row.get("prompt"), str)), "What is 17 + 25?")
    code, scored = [f"question = {_literal(question)}"], this.kind == "reward"
    if template == "none" and not scored:
        return [*code, "prompt = question"]
    if template == "r1-zero" and not scored:
        return [*code, f"template = {_literal(prompts.R1_ZERO)}", 'prompt = template.replace("{question}", question)']
    system = clean(section(this.config, "prompt").get("system")) or None
    *before, last = prompts.messages([{"role": "user", "content": ""}], template=template, system=system)
    code += [f"system = {_literal(message['content'])}" for message in before]
    turns = ['{"role": "system", "content": system}'] if before else []
    turns += ['{"role": "user", "content": question' + (' + "\\n"' if last["content"] else "") + "}"]
    turns += ['{"role": "assistant", "content": "It is 42."}'] if scored else []
    code += [f"messages = [{', '.join(turns)}]"]
    code += [f"prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt={not scored})"]
    code += ['prompt += "" if prompt.rstrip().endswith("<think>") else "<think>"'] if template == "logic-rl" else []
    return code


def _literal(text: str) -> str:
    """A text as Python source, long ones on several lines."""
    parts = textwrap.wrap(text, 100, drop_whitespace=False, replace_whitespace=False, expand_tabs=False) or [""]
    quoted = [json.dumps(part, ensure_ascii=False) for part in parts]
    return quoted[0] if len(quoted) == 1 else "\n".join(["(", *(f"    {part}" for part in quoted), ")"])


# Markdown


def _is_set(value: object) -> bool:
    return value not in (None, {}, []) and value is not False


def _short(value: object) -> str:
    """A value of a recipe on one line, without what is not set."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items() if _is_set(item)) + "}"
    return f"[{', '.join(map(_short, value))}]" if isinstance(value, list) else clean(value)


def _plain(value: object) -> str:
    """A text in which nothing is Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&]|^[-+=])", r"\\\1", " ".join(clean(value).split()))


def _code(value: object) -> str:
    """A text in a code span, which has as many backticks as it takes to hold those of the text."""
    text = " ".join(clean(value).split()) or "unknown"
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    cells = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
