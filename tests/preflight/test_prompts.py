"""What `check` says of prompts, chat templates, and the tokens that end a turn."""

import json

import pytest

from r1lab.models import CHAT_TEMPLATE

CLOSED = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")
OPENED = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
NO_SYSTEM = CHAT_TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


def test_a_recipe_in_order_shows_its_prompt_with_and_without_the_chat_template(found, grpo):
    lines = found(grpo())
    assert all(line.startswith("ok ") for line in lines)
    assert any("sent, with template r1-zero: A conversation between User" in line for line in lines)
    assert any("not used, the chat template: ⟦<|im_start|>⟧user⏎" in line for line in lines)


def test_a_chat_template_that_is_not_there(found, grpo, model):
    folder = model(template="")
    (line,) = found(grpo(model={"path": str(folder)}, prompt={"template": "chat"}), "error")
    assert "prompt.template: chat: the model has no chat template" in line
    assert line.endswith("set prompt.template: r1-zero")


@pytest.mark.parametrize("reward", ["format", "knights_knaves"])
def test_a_template_that_ends_the_thinking_before_the_model_writes(found, grpo, model, reward):
    folder = model(template=CLOSED)
    recipe = grpo(model={"path": str(folder)}, prompt={"template": "chat"}, rewards=[{"name": "knights_knaves"}])
    recipe["rewards"] += [{"name": reward, "weight": 0.1}] if reward == "format" else []
    (line,) = [line for line in found(recipe) if "ends the thinking" in line]
    assert line.startswith("error" if reward == "format" else "warning")


def test_a_template_that_opens_the_thinking_is_in_order(found, grpo, model):
    folder = model(template=OPENED)
    recipe = grpo(model={"path": str(folder)}, prompt={"template": "chat"})
    recipe["rewards"].append({"name": "format", "weight": 0.1})
    assert found(recipe, "error") == []
    assert any("the prompt opens <think> itself; rewards see it put back" in line for line in found(recipe, "ok"))


def test_a_system_prompt_that_the_template_drops_or_refuses(found, grpo, model):
    folder = model(template=NO_SYSTEM)
    (line,) = found(grpo(model={"path": str(folder)}, prompt={"template": "open-r1"}), "error")
    assert "leaves the system prompt out: 'You are a helpful AI Assistant" in line
    (folder / "chat_template.jinja").write_text(REFUSES + CHAT_TEMPLATE, encoding="utf-8")
    (line,) = found(grpo(model={"path": str(folder)}, prompt={"template": "open-r1"}), "error")
    assert "chat template: System role not supported" in line


def test_a_turn_that_ends_with_another_token_than_generation(found, grpo, model):
    folder = model(tokenizer={"eos_token": "<|endoftext|>"}, generation={"eos_token_id": 0})
    lines = found(grpo(model={"path": str(folder)}, prompt={"template": "chat"}), "warning")
    assert any(
        "<|im_end|> ends a turn in its chat template, and generation stops at <|endoftext|>" in x for x in lines
    )


def test_a_generation_config_that_stops_elsewhere(found, grpo, model):
    folder = model(generation={"eos_token_id": 0})
    (line,) = found(grpo(model={"path": str(folder)}), "warning")
    assert "its generation_config.json stops at <|endoftext|>, its tokenizer ends turns with <|im_end|>" in line


def test_a_chat_model_that_is_asked_without_its_template(found, grpo):
    (line,) = found(grpo(prompt={"template": "none"}), "warning")
    assert "without the model's chat template" in line and line.endswith("set prompt.template: chat")


def test_a_tokenizer_that_loses_spaces(found, grpo, model):
    folder = model(name="tiny-deepseek-v3")  # transformers builds that of Qwen2 anew
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    (folder / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    lines = found(grpo(model={"path": str(folder)}), "error")
    assert any("the tokenizer gives back" in line for line in lines)


def test_what_a_row_of_sft_teaches_is_shown(found, model):
    rows = [
        {"prompt": f"{n}+1?", "completion": f"<think> {n} and 1 </think>\n<answer> {n + 1} </answer>"}
        for n in range(9)
    ]
    with open("rows.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    folder = model(tokenizer={"pad_token": "<|im_end|>"})
    lines = found(
        {
            "stage": "sft",
            "model": {"path": str(folder)},
            "data": {"builder": "rows", "path": "rows.jsonl"},
            "prompt": {"template": "r1-zero"},
            "train": {"learning_rate": 1e-4, "max_steps": 5},
        }
    )
    assert any("learnt of row 1:  <think> 0 and 1 </think>⏎<answer> 1 </answer>⟦<|im_end|>⟧" in line for line in lines)
    assert any("9 of 9 completions think; all end with <|im_end|>" in line for line in lines)
    assert any("padding is <|im_end|> too; labels are masked by place" in line for line in lines)
