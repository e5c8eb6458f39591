"""Templates letter for letter, the prefill, and what SFT supervises."""

from pathlib import Path

import pytest

from r1lab.errors import UserError
from r1lab.models import loading, prompts

LOGIC_RL = Path(__file__).parents[3] / "shared" / "data" / "logic_rl_kk" / "instruct"


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return loading.load_tokenizer(str(tiny_model))


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
    assert prompts.render("Q", tokenizer, template="chat")[1] == "<think>\n"
    text, _ = prompts.render("Q", tokenizer, template="logic-rl")
    assert text.count("<think>\n") == 1 and text.rstrip().endswith("<think>")


def prompts_template_with_think(tokenizer):
    return tokenizer.chat_template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


@pytest.mark.parametrize("template", prompts.TEMPLATES)
def test_sft_trains_on_the_completion_and_its_end_and_on_nothing_of_the_prompt(tokenizer, template):
    row = {"prompt": "Who?", "completion": "<think> Hm. </think>\n<answer> (1) Zoey is a knight </answer>"}
    example = prompts.example(row, tokenizer, template=template)
    given, learned = example["prompt_ids"], example["completion_ids"]
    assert learned[-1] == tokenizer.eos_token_id
    text, prefill = prompts.render("Who?", tokenizer, template=template)
    assert tokenizer.decode(given) == text
    whole = prefill + tokenizer.decode(learned[:-1])
    assert whole.strip() == row["completion"] and whole.count("<think>") == 1


CHAT = Path(__file__).parent.parent / "chat_templates"
TRACE = "<think>\nTwo and two.\n</think>\n\n4"


@pytest.fixture
def templated(tokenizer, monkeypatch):
    """The tokenizer with one of the well-known chat templates."""

    def to(name: str):
        monkeypatch.setattr(tokenizer, "chat_template", (CHAT / f"{name}.jinja").read_text(encoding="utf-8"))
        return tokenizer

    return to


@pytest.mark.parametrize("name", ["chatml", "qwen2.5", "qwen3", "qwen3-thinking", "llama-3", "r1-distill", "mistral"])
def test_prompt_and_trained_completion_join_as_inference_meets_them(templated, name):
    """What is prefilled is given once: no second tag and no second newline."""
    tokenizer = templated(name)
    example = prompts.example({"prompt": "2+2?", "completion": TRACE}, tokenizer, template="chat")
    whole = tokenizer.decode(example["prompt_ids"] + example["completion_ids"])
    assert whole.endswith(TRACE + tokenizer.eos_token) and whole.count("<think>") == 1
    text, prefill = prompts.render("2+2?", tokenizer, template="chat")
    assert text.endswith(prefill) and prefill in ("", "<think>\n")


@pytest.mark.parametrize(
    ("completion", "prefill", "expected"),
    [
        (TRACE, "<think>\n", "Two and two.\n</think>\n\n4"),
        ("<think>Two.</think>4", "<think>\n", "Two.</think>4"),
        ("\n<think>  Two.</think>4", "<think>\n", "Two.</think>4"),
        ("<think>\n\nTwo.</think>4", "<think>\n", "\nTwo.</think>4"),
        (TRACE, "<think>", "\nTwo and two.\n</think>\n\n4"),
        ("Two.</think>4", "<think>\n", "Two.</think>4"),
        (TRACE, "", TRACE),
    ],
)
def test_what_is_prefilled_is_not_written_again(completion, prefill, expected):
    assert prompts.written(completion, prefill, "chat") == expected


def test_a_prompt_that_is_rendered_already_may_open_the_thinking(tokenizer):
    assert prompts.render("<|im_start|>assistant\n<think>\n", tokenizer, template="none")[1] == "<think>\n"
    assert prompts.render("Use <think> tags.", tokenizer, template="none")[1] == ""


@pytest.mark.parametrize("end", ["<|im_end|>", "<|im_end|>\n", " <|im_end|><|endoftext|>", "<|im_end|>\n<|im_end|>\n"])
@pytest.mark.parametrize("template", ["chat", "r1-zero"])
def test_one_end_is_trained_on_where_a_completion_has_its_own(tokenizer, end, template):
    plain = prompts.example({"prompt": "?", "completion": TRACE}, tokenizer, template=template)
    ended = prompts.example({"prompt": "?", "completion": TRACE + end}, tokenizer, template=template)
    ids = [i for i in ended["completion_ids"] if i in prompts.special_ids(tokenizer)]
    assert ids == [tokenizer.eos_token_id] == ended["completion_ids"][-1:]
    said = ["".join(tokenizer.decode(made["completion_ids"]).split()) for made in (plain, ended)]
    assert said[0] == said[1]  # but for the white space before the end


def test_an_end_within_a_completion_stays(tokenizer):
    assert prompts.without_end("a <|im_end|> b", tokenizer) == "a <|im_end|> b"


def test_r1_zero_keeps_the_history(tokenizer):
    listed = [{"role": "user", "content": "My name is Zoe."}, {"role": "assistant", "content": "Hello."}]
    listed += [{"role": "user", "content": "Who am I?"}]
    text, _ = prompts.render(listed, tokenizer, template="r1-zero")
    assert text.endswith("User: My name is Zoe. Assistant: Hello. User: Who am I? Assistant:")
    assert prompts.messages(listed, template="r1-zero") == text  # a server gets the same
    assert prompts.render(listed[2:], tokenizer, template="r1-zero") == prompts.render(
        "Who am I?", tokenizer, template="r1-zero"
    )


def test_an_end_token_of_ones_own(tiny_model):
    tokenizer = loading.load_tokenizer(str(tiny_model), eos_token="<|endoftext|>")
    example = prompts.example({"prompt": "?", "completion": "4<|im_end|>"}, tokenizer)
    assert tokenizer.decode(example["completion_ids"]) == "4<|endoftext|>"
    with pytest.raises(
        UserError, match="train.eos_token: '<|eot_id|>' is not in the vocabulary of the model's tokenizer"
    ):
        loading.load_tokenizer(str(tiny_model), eos_token="<|eot_id|>")
