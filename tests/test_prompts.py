"""Templates letter for letter, the prefill, and what SFT supervises."""

from pathlib import Path

import pytest

from r1lab import models, prompts

LOGIC_RL = Path(__file__).parents[2] / "shared" / "data" / "logic_rl_kk" / "instruct"


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return models.load_tokenizer(str(tiny_model))


def test_r1_zero_is_a_plain_text_that_ends_where_the_assistant_speaks(tokenizer):
    text, prefill = prompts.render("Who is a knight?", tokenizer, template="r1-zero")
    assert text.endswith("User: Who is a knight? Assistant:") and prefill == ""


def test_logic_rl_prefills_the_think_tag(tokenizer):
    text, prefill = prompts.render("Who?", tokenizer, template="logic-rl")
    assert text.endswith("<|im_start|>assistant\n<think>") and prefill == "<think>"


@pytest.mark.skipif(not LOGIC_RL.is_dir(), reason="needs ../shared/data/logic_rl_kk")
def test_logic_rl_prompts_are_those_of_its_own_data_byte_for_byte(tokenizer):
    """On all 5,000 puzzles, byte for byte."""
    import pyarrow.parquet as pq

    files = sorted(LOGIC_RL.glob("*ppl/*.parquet"))
    rows = [row for file in files for row in pq.read_table(file, columns=["quiz", "prompt"]).to_pylist()]
    assert len(rows) == 5000
    for row in rows:
        text, prefill = prompts.render(row["quiz"], tokenizer, template="logic-rl")
        assert [text] == [message["content"] for message in row["prompt"]] and prefill == "<think>"


def test_a_system_prompt_of_ones_own_replaces_the_templates(tokenizer):
    text, _ = prompts.render("Who?", tokenizer, template="open-r1", system="Be brief.")
    assert "Be brief." in text and "internal monologue" not in text


def test_messages_pass_through_the_chat_template(tokenizer):
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    text, _ = prompts.render(messages, tokenizer, template="chat")
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"


def test_a_chat_template_that_opens_the_think_tag_itself_is_seen(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", prompts_template_with_think(tokenizer))
    assert prompts.render("Q", tokenizer, template="chat")[1] == "<think>"
    text, _ = prompts.render("Q", tokenizer, template="logic-rl")
    assert text.count("<think>\n") == 1 and text.rstrip().endswith("<think>")


def prompts_template_with_think(tokenizer):
    return tokenizer.chat_template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


@pytest.mark.parametrize("template", ["none", "r1-zero", "chat", "logic-rl"])
def test_sft_learns_the_completion_and_its_end_and_nothing_of_the_prompt(tokenizer, template):
    row = {"prompt": "Who?", "completion": "<think> Hm. </think>\n<answer> (1) Zoey is a knight </answer>"}
    example = prompts.example(row, tokenizer, template=template)
    given, learnt = example["prompt_ids"], example["completion_ids"]
    assert learnt[-1] == tokenizer.eos_token_id
    text, prefill = prompts.render("Who?", tokenizer, template=template)
    assert tokenizer.decode(given) == text
    whole = prefill + tokenizer.decode(learnt[:-1])
    assert whole.strip() == row["completion"] and whole.count("<think>") == 1
