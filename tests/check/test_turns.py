"""The rule for a prompt: it contains each message once, and ends in an open assistant turn."""

import copy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.check.look import _render, template_of
from r1lab.check.seen import Seen
from r1lab.check.turns import turn_findings
from r1lab.models import loading
from r1lab.recipe.schema import GrpoRecipe

FOLDER = Path(__file__).parent.parent / "chat_templates"
KNOWN = {file.stem: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.jinja"))}
CHATML, QWEN3 = KNOWN["chatml"], KNOWN["qwen3"]
PLAIN = loading.load_tokenizer("embedded:tiny-qwen2")
LONG = [{"role": "user", "content": "My name is Zoe."}, {"role": "assistant", "content": "Hello."}]


def reported(prompts: list, chat_template: str | None, template: str = "chat", **prompt) -> list[tuple[str, str]]:
    """Verdicts and messages for prompts in a model's chat template."""
    tokenizer = copy.deepcopy(PLAIN)
    tokenizer.chat_template = chat_template
    stage = GrpoRecipe(
        name="x",
        stage="grpo",
        model={"path": "embedded:tiny-qwen2"},
        data={"builder": "arithmetic"},
        prompt={"template": template, **prompt},
        rewards=[{"name": "exact_match"}],
    )
    seen = Seen(stage, tokenizer=tokenizer, rows=[{"prompt": prompt} for prompt in prompts])
    found = _render(seen, tokenizer)
    found += turn_findings(seen, tokenizer, template_of(seen, tokenizer)) if seen.rendered else []
    return [(finding.verdict, finding.message) for finding in found]


def asked(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("prompt", ["2+2?", asked("user"), [*LONG, *asked("2+2?")]], ids=["text", "word", "history"])
def test_well_known_templates_keep_the_rule(name, prompt):
    assert reported([prompt], KNOWN[name]) == []


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), st.sampled_from(list(KNOWN)))
def test_a_prompt_contains_any_text_once(text, name):
    if any(token in text for token in ("<", "[")) or not text.strip():
        return
    assert reported([text], KNOWN[name]) == []


@pytest.mark.parametrize("name", ["chatml", "qwen2.5", "qwen3", "llama-3"])
def test_a_template_without_a_generation_prompt(name):
    cut = KNOWN[name].partition("{% if add_generation_prompt")[0]
    ((verdict, message),) = reported(["2+2?"], cut)
    assert verdict == "error" and message.startswith("the prompt opens no assistant turn: the chat template ends it")


@pytest.mark.parametrize("template", ["{# nothing #}", " \n"])
def test_an_empty_template(template):
    ((verdict, message),) = reported(["2+2?"], template)
    assert verdict == "error" and "chat template is empty" in message


LAST_ONLY = CHATML.replace("for m in messages", "for m in messages[-1:]")
TWICE = "{% for m in messages %}" + CHATML
CUT = CHATML.replace("{{ m['content'] }}", "{{ m['content'][:24] }}")


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (LAST_ONLY, "drops a message with the role user: 'My name is Zoe.' (1 in 1 prompts)"),
        (CHATML.replace("{{ m['content'] }}", ""), "drops a message with the role user: 'My name"),
        (
            CHATML.replace("{{ m['content'] }}", "{{ m['content'] }} {{ m['content'] }}"),
            "duplicates a message",
        ),
        (CUT, "changes a message with the role user"),
        (
            CHATML.replace("{{ m['content'] }}", "{{ m['content'] | tojson | replace('a', 'e') }}"),
            "a message with",
        ),
    ],
)
def test_a_template_that_loses_or_doubles_a_message(template, what):
    found = reported([[*LONG, *asked("2+2?")]], template)
    assert [verdict for verdict, _ in found] == ["error"] and what in found[0][1]


def test_thinking_of_earlier_turns_that_is_left_out_is_a_warning():
    thought = [LONG[0], {"role": "assistant", "content": "<think>\nA name.\n</think>\n\nHello."}, *asked("2+2?")]
    ((verdict, message),) = reported([thought], QWEN3)
    assert verdict == "warning" and "drops the thinking of 1 earlier assistant turns" in message
    assert reported([thought], CHATML) == []


@pytest.mark.parametrize("name", ["chatml", "qwen3", "llama-3", "r1-distill", "mistral", "gemma"])
def test_prompts_that_are_rendered_already(name):
    tokenizer = copy.deepcopy(PLAIN)
    tokenizer.chat_template = KNOWN[name]
    text = tokenizer.apply_chat_template(asked("2+2?"), tokenize=False, add_generation_prompt=True)
    ((verdict, message),) = reported([text], KNOWN[name])
    assert verdict == "error" and "a template was already applied to them" in message
    assert reported([text], KNOWN[name], template="none") == []  # that is how to ask for it
    other = CHATML if name != "chatml" else KNOWN["llama-3"]
    assert [verdict for verdict, _ in reported([text], other)] == ["error"]


def test_one_odd_prompt_of_many_is_a_warning():
    ((verdict, message),) = reported(["2+2?"] * 9 + ["What does <|im_end|> mean?"], CHATML)
    assert verdict == "warning" and message.startswith("1 of 10 prompts contain '<|im_end|>'")


def test_a_prompt_in_the_text_of_r1_zero_already():
    from r1lab.models.prompts import R1_ZERO

    ((verdict, message),) = reported([R1_ZERO.replace("{question}", "2+2?")], CHATML, template="r1-zero")
    assert verdict == "error" and "contain 'Assistant:'" in message


def test_a_rendered_prompt_that_opens_no_turn():
    ((verdict, message),) = reported(["<|im_start|>user\n2+2?<|im_end|>\n"], CHATML, template="none")
    assert verdict == "error" and "they open no assistant turn" in message


def test_templates_that_have_no_place_for_a_message():
    system = [{"role": "system", "content": "Be brief."}, *asked("2+2?")]
    ((verdict, message),) = reported([system], KNOWN["gemma"])
    assert verdict == "error" and "System role not supported" in message
    ((verdict, message),) = reported([system], CHATML, template="r1-zero")
    assert verdict == "error" and "r1-zero has no place for a message with the role system" in message
    ((verdict, message),) = reported([asked("2+2?")], CHATML, template="none")
    assert verdict == "error" and message.endswith("set prompt.template: chat")
    ((verdict, message),) = reported(["2+2?"], CHATML, template="r1-zero", system="Be brief.")
    assert verdict == "error" and "has no place for a system prompt" in message
