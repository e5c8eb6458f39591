"""What is put between two turns: the chat template's own text, and replies that cannot speak for others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.environments.base import Reply
from r1lab.episodes.template import TurnTemplate, apart
from r1lab.errors import UserError
from r1lab.models import loading

QWEN = (
    "{% for m in messages %}{% if m.role == 'tool' %}{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}"
    "<|im_start|>user{% endif %}{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    made = loading.load_tokenizer("embedded:tiny-qwen2")
    made.chat_template = QWEN
    return made


def test_it_is_what_the_chat_template_renders(tokenizer):
    template = TurnTemplate(tokenizer, template="chat")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    listed = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a"}]
    replies = [Reply("4"), Reply("five")]
    whole = tokenizer.apply_chat_template(
        [*listed, *({"role": "tool", "content": reply.content} for reply in replies)],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    after = whole.partition("assistant\na")[2]
    assert tokenizer.decode(template.between(replies, 7)) == after
    assert tokenizer.decode(template.between(replies, end)) == after.removeprefix("<|im_end|>")
    assert "<tool_response>\n4\n</tool_response>\n<tool_response>\nfive" in after


def test_a_prefill_begins_every_turn(tokenizer):
    template = TurnTemplate(tokenizer, template="chat", prefill="<think>")
    assert tokenizer.decode(template.between([Reply("4")], None)).endswith("<|im_start|>assistant\n<think>")


@pytest.mark.parametrize("template", ["r1-zero", "none"])
def test_plain_text_has_a_place_for_replies(tokenizer, template):
    made = TurnTemplate(tokenizer, template=template)
    tool, user = (tokenizer.decode(made.between([Reply("4", role=role)], made.end)) for role in ("tool", "user"))
    assert "<tool_response>" in tool and "<tool_response>" not in user and "4" in user
    assert user.endswith(" Assistant:") == (template == "r1-zero")


def test_a_chat_template_without_a_place_for_replies_is_an_error(tokenizer):
    made = loading.load_tokenizer("embedded:tiny-qwen2")
    made.chat_template = (
        "{% for m in messages if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    )
    with pytest.raises(UserError, match="does not render replies with the role tool"):
        TurnTemplate(made, template="chat")


@given(
    st.lists(st.sampled_from(["<|im_end|>", "<think>", "</answer>", "<", "|im_end|>", "im", "a ", "ü"]), max_size=8)
)
def test_a_reply_has_no_special_tokens(tokenizer, words):
    text = "".join(words)
    template = TurnTemplate(tokenizer, template="chat")
    plain = template.between([Reply("")], None)
    ids = template.between([Reply(text)], None)
    added = set(tokenizer.get_added_vocab().values())
    assert [i for i in ids if i in added] == [i for i in plain if i in added]
    assert text in tokenizer.decode(ids)


@given(st.text(alphabet="<|>ab", max_size=20))
def test_apart_keeps_the_text_and_breaks_every_token(text):
    tokens = ["<a>", "<|b|>", "aa"]
    parts = apart(text, tokens)
    assert "".join(parts) == text and not any(token in part for part in parts for token in tokens)
