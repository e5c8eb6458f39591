"""Tools in a prompt: each chat template shows them, or they are in front of the question as text."""

import json
from pathlib import Path

import pytest
import trl

from r1lab.errors import UserError
from r1lab.models import loading, prompts, tools

TRL = Path(trl.__file__).parent / "chat_templates"
OURS = Path(__file__).parents[1] / "chat_templates"
AGE = {
    "type": "function",
    "function": {
        "name": "age_of",
        "description": "How old somebody is.",
        "parameters": {
            "type": "object",
            "properties": {"person": {"type": "string", "description": "A first name."}},
            "required": ["person"],
        },
    },
}
QUESTION = "How old is Mia?"


@pytest.fixture
def tokenizer(tiny_model):
    return loading.load_tokenizer(str(tiny_model))


def with_template(tokenizer, file):
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    return tokenizer


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1", "llama3_2", "glm4moe", "gptoss"])
def test_a_chat_template_with_a_place_for_tools_shows_them_there(tokenizer, name):
    text, _ = prompts.render(QUESTION, with_template(tokenizer, TRL / f"{name}.jinja"), template="chat", tools=[AGE])
    assert text.count("age_of") == 1 and tools.as_text([AGE]) + "\n\n" + QUESTION not in text
    assert "How old somebody is." in text and QUESTION in text


@pytest.mark.parametrize(
    "file", [OURS / "chatml.jinja", OURS / "gemma.jinja", TRL / "gemma.jinja", TRL / "phi3.jinja"]
)
def test_a_chat_template_without_one_gets_them_as_text_in_front_of_the_question(tokenizer, file):
    text, _ = prompts.render(QUESTION, with_template(tokenizer, file), template="chat", tools=[AGE])
    assert tools.as_text([AGE]) + "\n\n" + QUESTION in text


def test_the_text_is_what_the_chat_template_of_qwen_writes(tokenizer):
    text, _ = prompts.render(QUESTION, with_template(tokenizer, TRL / "qwen2_5.jinja"), template="chat", tools=[AGE])
    assert tools.as_text([AGE]) in text


@pytest.mark.parametrize("given", [{"template": "none"}, {"template": "r1-zero"}, {"text": "Q: {question}\nA:"}])
def test_plain_text_has_them_in_front_of_the_question(tokenizer, given):
    text, _ = prompts.render(QUESTION, tokenizer, **given, tools=[AGE])
    assert tools.as_text([AGE]) + "\n\n" + QUESTION in text
    assert prompts.messages(QUESTION, **given, tools=[AGE]) == text  # a server gets the same


def test_a_server_gets_them_in_the_first_user_message():
    listed = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    system, user = prompts.messages(listed, template="chat", tools=[AGE])
    assert system == listed[0] and user["content"] == tools.as_text([AGE]) + "\n\n" + QUESTION


def test_a_template_of_ones_own_that_lists_tools_gets_them(tokenizer, tmp_path):
    own = tmp_path / "own.jinja"
    own.write_text("{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %} {{ question }}")
    assert prompts.render(QUESTION, tokenizer, template=str(own), tools=[AGE])[0] == f"[age_of] {QUESTION}"
    own.write_text("{{ question }}")
    text, _ = prompts.render(QUESTION, tokenizer, template=str(own), tools=[AGE])
    assert text == tools.as_text([AGE]) + "\n\n" + QUESTION


def test_a_template_that_shows_neither_tools_nor_the_whole_question_is_one_error(tokenizer, tmp_path):
    own = tmp_path / "own.jinja"
    own.write_text("{{ question[-15:] }}")
    with pytest.raises(UserError, match="the prompt does not show the tool age_of of its row: set") as caught:
        prompts.render(QUESTION, tokenizer, template=str(own), tools=[AGE])
    assert len(caught.value.problems) == 1


def test_tools_may_be_json_and_may_be_the_inner_part_of_a_schema():
    for given in ([AGE], [AGE["function"]], json.dumps([AGE]), json.dumps([AGE["function"]])):
        assert tools.schemas(given) == [AGE]
    assert tools.schemas(None) == tools.schemas([]) == tools.schemas("[]") == []


@pytest.mark.parametrize(
    "given", ["a hammer", [{"description": "?"}], ["age_of"], '{"name": "age_of"}', [{"name": 3}]]
)
def test_a_column_with_other_content_is_one_error(given):
    with pytest.raises(UserError, match="data: tools: .* give a list of JSON schemas") as caught:
        tools.schemas(given)
    assert len(caught.value.problems) == 1


def test_messages_without_a_user_message_are_one_error():
    with pytest.raises(UserError, match="has no user message"):
        tools.into([{"role": "system", "content": "S"}], [AGE])


def test_a_row_with_tools_is_trained_on_with_them(tokenizer):
    row = {"prompt": QUESTION, "completion": "She is 7.", "tools": [AGE]}
    example = prompts.example(row, with_template(tokenizer, TRL / "qwen2_5.jinja"), template="chat")
    text, _ = prompts.render(QUESTION, tokenizer, template="chat", tools=[AGE])
    assert example["prompt_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    without = prompts.example(row | {"tools": None}, tokenizer, template="chat")
    assert len(without["prompt_ids"]) < len(example["prompt_ids"])
    assert without["completion_ids"] == example["completion_ids"]
