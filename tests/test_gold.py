"""The law that comes before any run: a gold answer that went through the tokenizer and back scores full marks."""

from pathlib import Path

import pytest

import r1lab.data
import r1lab.rewards
from r1lab import lookup, models
from r1lab.data.knights_knaves import complete

LOGIC_RL = Path(__file__).parents[2] / "shared" / "data" / "logic_rl_kk" / "instruct"
EMBEDDED = sorted(path.name for path in models.EMBEDDED.glob("*/"))

# What each builder and reward need to be tried. One that is missing here fails the tests below.
BUILDERS = {
    "knights_knaves": [
        {"size": 60, "people": [2, 3, 5, 8]},
        {"size": 40, "solution": "deduction"},
        {"size": 40, "solution": "evaluation"},
    ],
    "knights_knaves_attempts": [{"size": 60, "guess": 0.0, "sloppy": 0.0, "untidy": 0.0}],
    "logic_rl": [{"path": str(LOGIC_RL), "size": 60, "split": "test"}],
    "rows": [],  # a user's own rows: nothing of ours to try
}
REWARDS = {
    "knights_knaves": [({"mode": "strict"}, 1.0), ({"mode": "logic_rl"}, 3.0)],
    "format": [({"mode": "strict"}, 1.0), ({"mode": "soft"}, 1.0)],
}


def test_every_builder_and_every_reward_is_tried():
    assert set(BUILDERS) == set(r1lab.data.__all__)
    rewards = {name.removesuffix("_reward") for name in r1lab.rewards.__all__ if name.endswith("_reward")}
    assert set(REWARDS) == rewards


@pytest.mark.parametrize("model", EMBEDDED)
@pytest.mark.parametrize("builder", sorted(name for name, tries in BUILDERS.items() if tries))
def test_gold_survives_the_tokenizer(model, builder):
    if builder == "logic_rl" and not LOGIC_RL.is_dir():
        pytest.skip("needs ../shared/data/logic_rl_kk")
    tokenizer = models.load_tokenizer(f"embedded:{model}")
    for parameters in BUILDERS[builder]:
        rows = lookup.function("data", builder)(**parameters)
        gold = [row.get("completion") or complete("One of them lies.", row["answer"]) for row in rows]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in gold]
        back = tokenizer.batch_decode(ids, skip_special_tokens=True)
        for reward, tries in REWARDS.items():
            for settings, full in tries:
                function = lookup.function("rewards", reward)
                scores = function(back, answer=[row["answer"] for row in rows], **settings)
                assert scores == [full] * len(rows), (reward, settings, [s.reason for s in scores if s != full][:3])
