"""The prompt of an episode has the question, what the environment says at the start, and the tools."""

import pytest

from r1lab.environments.make import make
from r1lab.environments.toolset import schema
from r1lab.episodes.prompt import beginning, ended
from r1lab.models import loading

TOOLS = [schema(tool) for tool in make({"environment": None, "tools": ["calculator"]}).tools.values()]
SHOWS = (
    "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)


@pytest.fixture
def tokenizer():
    return loading.load_tokenizer("embedded:tiny-qwen2")


@pytest.mark.parametrize("template", ["chat", "none", "r1-zero"])
def test_tools_are_in_the_prompt_with_every_template(tokenizer, template):
    text = tokenizer.decode(beginning(tokenizer, TOOLS, template=template)({"prompt": "What is 3 * 4?"}, "Be quick."))
    squeezed = text.replace(" ", "")
    assert squeezed.index('"calculator"') < squeezed.index("Whatis3*4?") < squeezed.index("Bequick.")


def test_tools_are_where_a_chat_template_puts_them(tokenizer):
    tokenizer.chat_template = SHOWS
    text = tokenizer.decode(beginning(tokenizer, TOOLS, template="chat")({"prompt": "What is 3 * 4?"}, None))
    assert text.startswith("Tools:") and text.count("calculator") == 1


def test_messages_end_with_what_the_environment_says():
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Guess."}]
    assert ended(prompt, "5 guesses.")[-1] == {"role": "user", "content": "Guess.\n\n5 guesses."}
    assert ended(prompt, "") == prompt and ended("Guess.", "x") == "Guess.\n\nx"
