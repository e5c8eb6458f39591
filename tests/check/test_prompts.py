"""What `check` says of prompts, chat templates, and the tokens that end a turn."""

import json

import pytest

from r1lab.models.scratch import CHAT_TEMPLATE

CLOSED = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")
OPENED = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
NO_SYSTEM = CHAT_TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


def test_a_recipe_in_order_shows_its_prompt_with_and_without_the_chat_template(found, grpo):
    lines = found(grpo())
    assert all(line.startswith("ok ") for line in lines)
    assert any("first prompt, with template r1-zero: A conversation between User" in line for line in lines)
    assert any("the model's chat template, not used: ⟦<|im_start|>⟧user⏎" in line for line in lines)


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
    (line,) = [line for line in found(recipe) if "closes the thinking" in line]
    assert line.startswith("error" if reward == "format" else "warning")


def test_a_template_that_opens_the_thinking_is_in_order(found, grpo, model):
    folder = model(template=OPENED)
    recipe = grpo(model={"path": str(folder)}, prompt={"template": "chat"})
    recipe["rewards"].append({"name": "format", "weight": 0.1})
    assert found(recipe, "error") == []
    assert any("the prompt already opens <think>; rewards see it at the start" in line for line in found(recipe, "ok"))


def test_a_system_prompt_that_the_template_drops_or_refuses(found, grpo, model):
    folder = model(template=NO_SYSTEM)
    (line,) = found(grpo(model={"path": str(folder)}, prompt={"template": "open-r1"}), "error")
    assert "drops the system prompt: 'You are a helpful AI Assistant" in line
    (folder / "chat_template.jinja").write_text(REFUSES + CHAT_TEMPLATE, encoding="utf-8")
    (line,) = found(grpo(model={"path": str(folder)}, prompt={"template": "open-r1"}), "error")
    assert "chat template rejects a prompt: System role not supported" in line


def test_a_turn_that_ends_with_another_token_than_generation(found, grpo, model):
    folder = model(tokenizer={"eos_token": "<|endoftext|>"}, generation={"eos_token_id": 0})
    lines = found(grpo(model={"path": str(folder)}, prompt={"template": "chat"}), "warning")
    assert any(
        "<|im_end|> ends a turn in its chat template, but generation stops at <|endoftext|>" in x for x in lines
    )


def test_a_generation_config_that_stops_elsewhere(found, grpo, model):
    folder = model(generation={"eos_token_id": 0})
    (line,) = found(grpo(model={"path": str(folder)}), "warning")
    assert "its generation_config.json stops at <|endoftext|>, but its tokenizer's EOS token is <|im_end|>" in line


def test_a_chat_model_that_is_prompted_without_its_template(found, grpo):
    (line,) = found(grpo(prompt={"template": "none"}), "warning")
    assert "do not use the model's chat template" in line and line.endswith("set prompt.template: chat")


def test_a_tokenizer_that_loses_spaces(found, grpo, model):
    folder = model(name="tiny-deepseek-v3")  # transformers builds that of Qwen2 anew
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    (folder / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    lines = found(grpo(model={"path": str(folder)}), "error")
    assert any("the tokenizer decodes" in line for line in lines)


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
    assert any("row 1 trains on:  <think> 0 and 1 </think>⏎<answer> 1 </answer>⟦<|im_end|>⟧" in line for line in lines)
    assert any("9 of 9 completions contain thinking; all end with <|im_end|>" in line for line in lines)
    assert any("the padding token is also <|im_end|>; labels are masked by position" in line for line in lines)


def sft(folder, rows, **train):
    with open("rows.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return {
        "stage": "sft",
        "model": {"path": str(folder)},
        "data": {"path": "rows.jsonl"},
        "prompt": {"template": "chat"},
        "train": {"learning_rate": 1e-4, "max_steps": 5} | train,
    }


ROWS = [{"prompt": f"{n}+1?", "completion": f"<think>\n{n}\n</think>\n\n{n + 1}"} for n in range(9)]


def test_the_end_that_is_trained_on_is_named_for_what_it_is(found, model):
    folder = model(tokenizer={"eos_token": "<|endoftext|>"}, generation={"eos_token_id": 0})
    (line,) = found(sft(folder, ROWS), "warning")
    assert "<|im_end|> ends a turn in its chat template, but training targets end with <|endoftext|>" in line
    assert line.endswith('set train.eos_token: "<|im_end|>"')
    lines = found(sft(folder, ROWS, eos_token="<|im_end|>"))
    assert any("a turn ends with <|im_end|>, which also ends each training target" in x for x in lines)
    assert not any("which stops generation" in x for x in lines)


def test_an_end_token_that_the_tokenizer_lacks_is_an_error(found, model):
    (line,) = found(sft(model(), ROWS, eos_token="<|eot_id|>"), "error")
    assert "train.eos_token: '<|eot_id|>' is not in the vocabulary of the model's tokenizer: its own end token" in line


def test_generation_that_stops_at_the_end_of_the_generation_config(found, grpo, model):
    folder = model(tokenizer={"eos_token": "<|endoftext|>"}, generation={"eos_token_id": [2, 0]})
    lines = found(grpo(model={"path": str(folder)}, prompt={"template": "chat"}))
    assert any("ok      prompt: a turn ends with <|im_end|>, which stops generation" in x for x in lines)


def test_a_tokenizer_without_an_end(found, model):
    (line,) = found(sft(model(tokenizer={"eos_token": None, "pad_token": None}), ROWS), "error")
    assert "its tokenizer has no EOS token" in line
    assert line.endswith("set eos_token in its tokenizer_config.json, or train.eos_token")


def test_a_tokenizer_larger_than_the_embedding(found, model):
    folder = model()
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tool = settings["added_tokens"][-1] | {"id": 564, "content": "<tool>"}
    settings["added_tokens"].append(tool)
    (folder / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    (line,) = found(sft(folder, ROWS), "warning")
    assert "its tokenizer has 1 token beyond the model's embedding, such as '<tool>'" in line
    (line,) = found(sft(folder, [*ROWS, {"prompt": "?", "completion": "<tool> 4"}]), "error")
    assert "its tokenizer gives '<tool>' the id 564, but the model's embedding ends at 563" in line


def test_a_reward_stage_is_checked_as_its_model_reads(found, model):
    pairs = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "No."} for row in ROWS]
    recipe = sft(model(), pairs) | {"stage": "reward"}
    del recipe["prompt"]
    assert found(recipe, "error") == []
    conversations = [
        {side: [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
         for side in ("chosen", "rejected")} for row in pairs
    ]  # fmt: skip
    recipe = sft("embedded:tiny-llama", conversations)
    recipe = {key: value for key, value in recipe.items() if key != "prompt"} | {"stage": "reward"}
    assert found(recipe, "error") == []


def test_a_completion_that_never_closes_a_prefilled_thinking(found, model):
    (line,) = found(sft(model(template=OPENED), [{"prompt": "2+2?", "completion": "4"}]), "warning")
    assert "the prompt opens the thinking, but 1 of 1 completions never close it" in line


def test_a_system_prompt_of_the_data_that_a_template_replaces(found, grpo):
    row = {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}], "answer": "4"}
    with open("rows.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for _ in range(9))
    recipe = grpo(data={"path": "rows.jsonl"}, prompt={"template": "open-r1"}, rewards=[{"name": "exact_match"}])
    assert any("9 of 9 prompts have their own system prompt" in line for line in found(recipe, "warning"))


def test_a_padding_token_that_the_tokenizer_lacks_is_an_error(found, model):
    (line,) = found(sft(model(), ROWS, pad_token="<pad>"), "error")
    assert "train.pad_token: '<pad>' is not a token of the model's tokenizer, which pads with <|endoftext|>" in line


def test_an_end_token_holds_for_the_stages_that_build_on_it(found, grpo, model):
    folder = model(tokenizer={"eos_token": "<|endoftext|>"}, generation={"eos_token_id": 0})
    first = sft(folder, ROWS, eos_token="<|im_end|>") | {"name": "first"}
    second = grpo(model={"path": "@first/model"}, prompt={"template": "chat"}) | {"name": "second"}
    lines = found({"name": "both", "stages": [first, second]})
    assert any("a turn ends with <|im_end|>, which stops generation" in line for line in lines)
    assert not any("may run to their limit" in line for line in lines)


def test_prompts_that_have_no_place_in_what_a_server_is_asked(found):
    row = {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]}
    with open("rows.jsonl", "w", encoding="utf-8") as file:
        file.write(json.dumps(row))
    recipe = {
        "stage": "sample",
        "model": {"path": "some/model"},
        "data": {"path": "rows.jsonl"},
        "prompt": {"template": "r1-zero"},
        "rollout": {"engine": "server", "url": "http://localhost:9/v1"},
    }
    (line,) = found(recipe, "error")
    assert "r1-zero has no place for a message with the role system" in line
