"""`r1lab ask`: a model answers a question that is typed."""

import io
import re
import shutil

import pytest

from r1lab import ask, cli
from r1lab.data.knights_knaves import NAMES
from r1lab.engines import Sampling
from r1lab.errors import UserError
from r1lab.evaluation import protocols
from r1lab.rundir import storage

QUESTION = "You meet 2 inhabitants: Ann, and Ben. Ann said that Ben is a knave. So who is a knight and who is a knave?"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The model folder of a run whose recipe says how it was trained."""
    from r1lab.models import loading

    stage = tmp_path_factory.mktemp("run") / "02-zero"
    stage.mkdir()
    shutil.copytree(loading.EMBEDDED / "tiny-qwen2", stage / "model")
    prompt = {"template": "r1-zero", "system": None, "text": None, "prefill": "<think>"}
    storage.write_yaml(stage / "config.yaml", {"prompt": prompt, "rollout": {"max_completion_length": 12}})
    return str(stage / "model")


def asked(capsys, *words):
    status = cli.main(["ask", *words])
    return status, capsys.readouterr()


def test_a_model_of_a_run_is_asked_as_it_was_trained(model, capsys):
    status, shown = asked(capsys, model, QUESTION)
    assert status == 0
    assert shown.out.startswith("<think>")
    assert shown.out.rstrip().endswith("(truncated at 12 tokens; --max-tokens N allows more)")
    assert f"{model}: prompt template r1-zero, as in 02-zero/config.yaml; --template NAME uses another\n" in shown.err
    assert "knows only" not in shown.err


def test_an_embedded_model_is_asked_as_an_evaluation_asks_it(capsys):
    _, shown = asked(capsys, "embedded:tiny-qwen2", QUESTION, "--max-tokens", "3")
    prompt, why = protocols._prompt_of("embedded:tiny-qwen2")
    assert prompt["template"] == "r1-zero" and shown.out.startswith("<think>")
    assert (
        f"embedded:tiny-qwen2: prompt template {prompt['template']}, {why}; --template NAME uses another" in shown.err
    )
    assert "embedded:tiny-qwen2: knows only Knights and Knaves puzzles with 2 and 3 people" in shown.err


def test_the_example_has_names_that_the_embedded_models_know():
    names = re.findall(r"inhabitants: (\w+), and (\w+)\.", cli.ASK)
    assert names and set(names[0]) <= set(NAMES[:16])  # of the puzzles that they were trained on


def test_models_are_compared_on_the_same_prompt(model, capsys):
    _, shown = asked(capsys, model, QUESTION, "--compare", "embedded:tiny-qwen2", "--max-tokens", "5")
    first, second = shown.out.strip().split("\n\n")
    assert first.partition("\n")[0] == f"{model}:" and second.partition("\n")[0] == "embedded:tiny-qwen2:"
    assert first.partition("\n")[2] == second.partition("\n")[2], "the same weights answer the same greedily"


def test_each_line_of_standard_input_is_a_question(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("one?\n\ntwo?\n"))
    status, shown = asked(capsys, "embedded:tiny-qwen2", "--max-tokens", "3", "--samples", "2", "--temperature", "1")
    assert status == 0 and shown.out.count("embedded:tiny-qwen2:") == 4, "two answers to each of two questions"


def test_greedy_decoding_repeats_itself():
    answer = ask.answerer("embedded:tiny-qwen2", Sampling(max_tokens=6, temperature=0.0), {}, engine="transformers")
    assert answer(QUESTION) == answer(QUESTION)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--template", "r1zero"], "(did you mean `r1-zero`?)"),
        (["--samples", "2"], "set --temperature 1"),
        (["--samples", "0"], "must be at least 1"),
        (["--temperature", "-1"], "must be at least 0"),
    ],
)
def test_what_cannot_be_asked_is_one_line(words, said, capsys):
    status, shown = asked(capsys, "embedded:tiny-qwen2", QUESTION, *words)
    assert status == 2 and shown.out == "" and len(shown.err.splitlines()) == 1 and said in shown.err


def test_a_model_that_cannot_be_loaded_is_one_line(monkeypatch):
    def offline(path):
        raise OSError("We cannot connect.\nCheck your connection.")

    monkeypatch.setattr(ask.loading, "load_tokenizer", offline)
    with pytest.raises(UserError, match=r"^no/such: no such folder, .*: We cannot connect\.$"):
        ask.answerer("no/such", Sampling(), {}, engine="transformers")
