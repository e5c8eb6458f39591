"""Code for the model card that loads the model and prompts it as its training did."""

import json
import textwrap
from pathlib import Path

from r1lab.errors import UserError
from r1lab.models import prompts
from r1lab.report import read
from r1lab.report.read import Stage, as_number, clean, section
from r1lab.rundir import directory


def code(this: Stage, evals: list[Stage]) -> str:
    """Code blocks that run unchanged in the card's folder, with the prompt and the sampling of the evaluations."""
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_completion_length": 256}
    given = sampling_of((evals or [this])[0])
    sampling |= {k: v for k, v in given.items() if k in sampling and as_number(v) is not None}
    limit, adapter, reward = sampling.pop("max_completion_length"), saved_as_adapter(this), this.kind == "reward"
    template = clean(section(this.config, "prompt").get("template")) or "none"
    settings = ", ".join(f"{key}={value}" for key, value in sampling.items())
    generation = f"do_sample=True, {settings}" if sampling["temperature"] else "do_sample=False"
    text = section(this.config, "prompt").get("text")
    plain = prompts.is_plain(template=template, text=text)
    special = not reward and plain  # a chat template contains them already
    trust = ", trust_remote_code=True" if section(this.config, "model").get("trust_remote_code") is True else ""
    auto = f"AutoModelFor{'SequenceClassification' if reward else 'CausalLM'}"
    folder, prompt = 'folder = "."  # the folder of this card, or its id on the Hub', _prompt(this, evals, template)
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
        transformers += [f"output = model.generate(**inputs, {generation}, max_new_tokens={limit})"]
        transformers += [
            'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'
        ]
        vllm += [f"params = SamplingParams({settings}, max_tokens={limit})"]
        vllm += [f"print(llm.generate([inputs], params{lora})[0].outputs[0].text)"]
    blocks = {"transformers": transformers, "vLLM": vllm}
    return "\n\n".join(f"With {name}:\n\n```python\n{chr(10).join(code)}\n```" for name, code in blocks.items())


def _prompt(this: Stage, evals: list[Stage], template: str) -> list[str]:
    """Code that sets `prompt` as the training did (`models.prompts`), for a question of the run."""
    first_step = next(iter(directory.samples_by_step(this.path).values()), [])[:1]
    files = [*first_step, *(e.path / "samples/questions.jsonl" for e in evals)]
    rows = [next(read.rows(path, []), {}) for path in files]
    question = next((clean(row["prompt"]) for row in rows if isinstance(row.get("prompt"), str)), "What is 17 + 25?")
    code, scored = [f"question = {_literal(question)}"], this.kind == "reward"
    given = section(this.config, "prompt")
    text, prefill = clean(given.get("text")) or None, clean(given.get("prefill")) or None
    begun = []
    if prefill and not scored:
        begun = [f"prompt += {_literal(prefill)}"]
        if prefill.startswith("<think>"):  # in place of the template's own
            kept = 'prompt[: prompt.rindex("<think>") if opened else None]'
            begun = ['opened = prompt.rstrip().endswith("<think>")', f"prompt = {kept} + {_literal(prefill)}"]
    if template == "none" and text is None and not scored:
        return [*code, "prompt = question", *begun]
    if prompts.is_plain(template=template, text=text) and not scored:
        pattern = _literal(text or prompts.PLAIN[template])
        return [*code, f"template = {pattern}", 'prompt = template.replace("{question}", question)', *begun]
    system = clean(given.get("system")) or None
    messages = prompts.messages([{"role": "user", "content": ""}], template=template, system=system)
    assert isinstance(messages, list)  # plain text is handled above, and reward models have no plain template
    *before, last = messages
    code += [f"system = {_literal(message['content'])}" for message in before]
    turns = ['{"role": "system", "content": system}'] if before else []
    turns += ['{"role": "user", "content": question' + (' + "\\n"' if last["content"] else "") + "}"]
    turns += ['{"role": "assistant", "content": "It is 42."}'] if scored else []
    code += [f"messages = [{', '.join(turns)}]"]
    own = prompts.is_file(template) and not scored
    if own:
        code += [f"template = {_own_template(template)}"]
    more = ", chat_template=template, question=question" if own else ""
    given = f"messages, tokenize=False, add_generation_prompt={not scored}{more}"
    code += [f"prompt = tokenizer.apply_chat_template({given})"]
    if template in prompts.PREFILL and not begun:
        code += ['prompt += "" if prompt.rstrip().endswith("<think>") else "<think>"']
    return [*code, *begun]


def _own_template(path: str) -> str:
    """A user's chat template as Python source; if its file is missing, code that reads a file of that name."""
    try:
        return _literal(prompts.read_template(path))
    except UserError:
        return f"open({json.dumps(Path(path).name)}).read()"


def _literal(text: str) -> str:
    """A text as Python source, on several lines if it is long."""
    parts = textwrap.wrap(text, 100, drop_whitespace=False, replace_whitespace=False, expand_tabs=False) or [""]
    quoted = [json.dumps(part, ensure_ascii=False) for part in parts]
    return quoted[0] if len(quoted) == 1 else "\n".join(["(", *(f"    {part}" for part in quoted), ")"])


def sampling_of(stage: Stage) -> dict:
    """The sampling settings of an evaluation, or of the rollouts of a training, under the recipe's names."""
    own = section(stage.config, "eval") if stage.kind == "eval" else {}
    both = section(stage.config, "rollout") | {key: value for key, value in own.items() if value is not None}
    number_of = "num_samples" if stage.kind == "eval" else "num_generations"
    keys = (number_of, "temperature", "top_p", "top_k", "max_completion_length")
    return {key: both[key] for key in keys if key in both}


def saved_as_adapter(this: Stage) -> bool:
    """Whether `model/` contains only a LoRA adapter."""
    folder = this.path / "model"
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()
