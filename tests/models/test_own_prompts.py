"""Prompts of a recipe's own: a text with `{question}`, a prefill, a chat template in a file."""

import ast
import copy
import json
import re

import pytest

from r1lab.check.look import _render, template_of
from r1lab.check.seen import Seen
from r1lab.check.turns import turn_findings
from r1lab.errors import UserError
from r1lab.evaluation import forms
from r1lab.models import loading, prompts
from r1lab.recipe import loading as recipes
from r1lab.recipe.schema import GrpoRecipe
from r1lab.report import usage
from r1lab.report.read import Stage
from r1lab.stages.common import engine_prompts

TOKENIZER = loading.load_tokenizer("embedded:tiny-qwen2")
PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
OPEN = PLAIN + "{% if add_generation_prompt %}[assistant] {% endif %}"


@pytest.fixture
def jinja(tmp_path):
    def write(source):
        (tmp_path / "mine.jinja").write_text(source)
        return f"{tmp_path}/mine.jinja"

    return write


def test_a_text_of_ones_own_that_says_what_r1_zero_says_is_r1_zero():
    row = {"prompt": "2+2?", "completion": "<think> Two and two. </think> <answer> 4 </answer>"}
    own, ours = ({"text": prompts.R1_ZERO.replace("{question}", "{question}")}, {"template": "r1-zero"})
    assert prompts.render("2+2?", TOKENIZER, **own) == prompts.render("2+2?", TOKENIZER, **ours)
    assert prompts.example(row, TOKENIZER, **own) == prompts.example(row, TOKENIZER, **ours)
    assert forms.tagged(prompts.wording(**own)) and not forms.tagged(prompts.wording(text="Q: {question}"))


@pytest.mark.parametrize("prompt", [{"text": "Q: {question}\nA: "}, {"template": "chat"}, {"template": "logic-rl"}])
@pytest.mark.parametrize("prefill", ["<think>", "<think>\n", "Let me see. "])
def test_what_is_prefilled_ends_the_prompt_once_and_is_put_back(prompt, prefill):
    text, given = prompts.render("2+2?", TOKENIZER, **prompt, prefill=prefill)
    turn = re.split("assistant\n|A: ", text)[-1]
    assert given == turn == ("<think>" if "logic-rl" in prompt.values() and "Let" in prefill else "") + prefill
    row = {"prompt": "2+2?", "completion": f"{given}two and two"}
    learned = TOKENIZER.decode(prompts.example(row, TOKENIZER, **prompt, prefill=prefill)["completion_ids"][:-1])
    assert learned.strip() == "two and two"


def test_a_template_file_stands_in_place_of_the_models(jinja):
    path, listed = jinja(OPEN), [{"role": "system", "content": "Hi."}, {"role": "user", "content": "2+2?"}]
    without = copy.deepcopy(TOKENIZER)
    without.chat_template = None
    for tokenizer in (TOKENIZER, without):
        text, prefill = prompts.render(listed, tokenizer, template=path)
        assert text == "[system] Hi.\n[user] 2+2?\n[assistant] " and prefill == ""
    assert prompts.render("2+2?", TOKENIZER, template=path, system="Hi.")[0] == text
    assert prompts.render("2+2?", TOKENIZER, template=jinja("Q: {{ question }}\nA:"))[0] == "Q: 2+2?\nA:"


def test_a_server_is_asked_with_the_text(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "{stage: sample, model: {path: m}, data: {builder: arithmetic}, "
        'rollout: {engine: server, url: "http://localhost:1/v1"}, prompt: {text: "Q: {question} A:", prefill: " 1"}}'
    )
    recipe = recipes.load([str(tmp_path / "r.yaml")])
    assert engine_prompts([{"prompt": "2+2?"}], recipe, None) == (["Q: 2+2? A: 1"], [" 1"])


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ('text: "Solve this:"', "prompt.text: has no place for the question: write {question} where it belongs"),
        ('text: "{question}", template: chat', "prompt.text: replaces the template: remove prompt.template"),
        ('text: "{question}", system: Hi', "prompt.system: has no effect with prompt.text: write it into the text"),
        (
            "template: r2-zero",
            "prompt.template: r2-zero: no such choice (did you mean `r1-zero`?); write ./mine.jinja",
        ),
        ("template: ./none.jinja", "none.jinja: No such file or directory: create it, or set another one"),
        (
            "template: ./brokn.jinja",
            "broken.jinja`?): create it, or set another one",
        ),
        ("template: ./broken.jinja", "broken.jinja:2: Unexpected end of template"),
        ("template: ./silent.jinja", "silent.jinja: does not use the question: add {{ question }}, or loop"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_one_line(tmp_path, prompt, said):
    (tmp_path / "broken.jinja").write_text("\n{% if question %}")
    (tmp_path / "silent.jinja").write_text("Hello!")
    (tmp_path / "r.yaml").write_text(
        "{stage: sft, model: {path: embedded:tiny-qwen2}, data: {builder: arithmetic}, "
        f"prompt: {{{prompt}}}, train: {{max_steps: 1}}}}"
    )
    with pytest.raises(UserError) as error:
        recipes.load([str(tmp_path / "r.yaml")])
    (line,) = error.value.problems
    assert line.startswith(f"{tmp_path}/r.yaml:1: prompt.") and said in line and "\n" not in line


def test_what_a_template_raises_names_the_template(jinja):
    path = jinja("{{ question }}{{ raise_exception('no') }}")
    with pytest.raises(UserError, match=r"prompt.template: .*mine.jinja: cannot render a prompt: TemplateError: no"):
        prompts.render("2+2?", TOKENIZER, template=path)


def found(prompt: dict, question: str | list = "2+2?") -> list[tuple[str, str]]:
    stage = GrpoRecipe(
        name="x", stage="grpo", model={"path": "embedded:tiny-qwen2"}, data={"builder": "arithmetic"}, prompt=prompt,
        rewards=[{"name": "exact_match"}],
    )  # fmt: skip
    seen = Seen(stage, tokenizer=TOKENIZER, rows=[{"prompt": question}])
    told = _render(seen, TOKENIZER)
    told += turn_findings(seen, TOKENIZER, template_of(seen, TOKENIZER)) if seen.rendered else []
    return [(finding.verdict, finding.message) for finding in told]


def test_the_rule_for_a_prompt_holds_for_ones_own(jinja):
    assert found({"text": "Q: {question} A:"}) == [] and found({"template": jinja(OPEN)}) == []
    ((verdict, message),) = found({"text": "{question} {question}"})
    assert verdict == "error" and message.startswith("prompt.text duplicates a message with the role user")
    ((verdict, message),) = found({"text": "<|im_start|>user\n{question}<|im_end|>"})
    assert verdict == "error" and "they open no assistant turn" in message
    ((verdict, message),) = found({"text": "{question}"}, [{"role": "user", "content": "a"}] * 2)
    assert verdict == "error" and "has a place for one question" in message
    ((verdict, message),) = found({"template": jinja(PLAIN)})
    assert verdict == "error" and "opens no assistant turn" in message
    ((verdict, message),) = found({"template": jinja("{{ messages[0].role }}")})
    assert verdict == "error" and message.startswith("the template drops a message with the role user")


@pytest.mark.parametrize(
    "own", [{"text": "Q: {question}\nA:", "prefill": " 1"}, {"template": OPEN, "prefill": "<think>\n"}]
)
def test_the_card_asks_as_training_did(tmp_path, jinja, own):
    prompt = own | ({"template": jinja(own["template"])} if "template" in own else {})
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "step_000001.jsonl").write_text(json.dumps({"prompt": "2+2?", "completion": "4"}) + "\n")
    code = usage.code(Stage("zero", "grpo", tmp_path, {"prompt": prompt}), []).split("```python\n")[1].split("```")[0]
    lines = [node for node in ast.parse(code).body if not isinstance(node, ast.ImportFrom | ast.Import)]
    wanted = ("question", "template", "messages", "prompt", "opened")
    kept = [n for n in lines if getattr(getattr(n, "targets", [getattr(n, "target", None)])[0], "id", "") in wanted]
    names = {"tokenizer": TOKENIZER}
    exec(compile(ast.Module(kept, []), "card", "exec"), names)
    assert names["prompt"] == prompts.render("2+2?", TOKENIZER, **prompt)[0]
