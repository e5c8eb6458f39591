"""The log-probability of an answer under a real, tiny language model."""

import pytest
import torch

from r1lab.errors import UserError
from r1lab.models import loading, prompts
from r1lab.rewards import fluency_reward

MODEL = "embedded:tiny-llama"
PROMPT = "A very special island is inhabited only by knights and knaves. Who is a knight?"
TURNS = ["Zoey is a knight.", "knave knave of of is says Zoey (", "Zoey", "x", "<think> Zoey. </think> It is Luke."]


def mean(turn: str, prompt: str = PROMPT) -> float:
    """The mean log-probability of an answer by a plain forward pass without padding."""
    model, tokenizer = loading.load_model(MODEL, dtype="float32").eval(), loading.load_tokenizer(MODEL)
    before = prompts.render(prompt, tokenizer, template="chat" if tokenizer.chat_template else "none")[0]
    before = before if tokenizer.chat_template else before + "\n"
    asked = tokenizer(before, add_special_tokens=False)["input_ids"]
    answer = tokenizer(turn.rpartition("</think>")[2].strip(), add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logps = model(torch.tensor([[*asked, *answer]])).logits[0].log_softmax(-1)
    places = range(len(asked) - 1, len(asked) + len(answer) - 1)
    return sum(logps[place, token].item() for place, token in zip(places, answer)) / len(answer)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_the_score_is_the_mean_log_probability_between_the_bounds(batch_size):
    found = fluency_reward(
        TURNS, prompts=[PROMPT] * len(TURNS), model=MODEL, floor=-0.0, bottom=-100.0, batch_size=batch_size
    )
    for turn, score in zip(TURNS, found, strict=True):
        assert score == pytest.approx(1 + mean(turn) / 100, abs=1e-5), turn


def test_everything_above_the_floor_scores_the_same_and_below_the_bottom_nothing():
    means = [mean(turn) for turn in TURNS]
    lowest, highest = min(means), max(means)
    found = fluency_reward(TURNS, prompts=[PROMPT] * 5, model=MODEL, floor=lowest - 0.01, bottom=lowest - 1)
    assert found == [1.0] * 5
    found = fluency_reward(TURNS, prompts=[PROMPT] * 5, model=MODEL, floor=0.0, bottom=highest + 0.001 * (highest < 0))
    assert found == [0.0] * 5 and all(score.reason.startswith("unlikely: -") for score in found)


def test_other_prompts_and_messages():
    messages = [{"role": "user", "content": PROMPT}]
    given = {"model": MODEL, "floor": 0.0, "bottom": -50.0}
    assert fluency_reward(["Zoey."], prompts=[messages], **given) == fluency_reward(
        ["Zoey."], prompts=[PROMPT], **given
    )
    assert fluency_reward(["Zoey."], prompts=["Zoey? " * 400], **given, max_length=64) != [0.0]


def test_answers_that_are_none_or_too_short():
    turns = ["", " \n", "<think> still thinking", "Yes.", "<|im_end|>", "\ud800", "No, it is not."]
    turns[2] = "<think> a </think> "
    found = fluency_reward(turns, prompts=["?"] * 7, model=MODEL, floor=0.0, bottom=-1000.0, min_words=3)
    assert found[:6] == [0.0] * 6 and found[6] > 0
    assert {score.reason for score in found[:6]} == {"short"}
    (score,) = fluency_reward(["<think> still thinking"], prompts=["?"], model=MODEL)
    assert (score, score.reason) == (0.0, "no_answer")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"model": ""}, "model: missing"),
        ({"floor": -5.0}, "floor: -5.0 is not above bottom"),
        ({"floor": 1.0}, "floor: 1.0"),
        ({"min_words": 0}, "min_words: 0 is below 1"),
        ({"max_length": 1}, "max_length: 1 is below 2"),
        ({"model": "./nowhere"}, "./nowhere does not load"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UserError, match=message):
        fluency_reward(["Yes."], prompts=["?"], **{"model": MODEL} | settings)


@pytest.mark.parametrize("hostile", ["x" * 200_000, "so it is, and " * 20_000, "<|im_end|>" * 5_000, "\x00" * 100_000])
def test_no_text_breaks_it(hostile):
    (score,) = fluency_reward([hostile], prompts=["?"], model=MODEL, max_length=256)
    assert 0 <= score <= 1
