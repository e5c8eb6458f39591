"""The law that comes before any run: a gold answer that went through the tokenizer and back scores full marks."""

from pathlib import Path

import pytest

import r1lab.data
import r1lab.rewards
from r1lab import lookup
from r1lab.data.knights_knaves import complete
from r1lab.models import loading

LOGIC_RL = Path(__file__).parents[3] / "shared" / "data" / "logic_rl_kk" / "instruct"
EMBEDDED = sorted(path.name for path in loading.EMBEDDED.glob("*/"))

# What each builder and reward need to be tried. One that is missing here fails the tests below.
BUILDERS = {
    "knights_knaves": [
        {"size": 60, "people": [2, 3, 5, 8]},
        {"size": 40, "solution": "deduction"},
        {"size": 40, "solution": "evaluation"},
    ],
    "knights_knaves_attempts": [{"size": 60, "guess": 0.0, "sloppy": 0.0, "untidy": 0.0}],
    "logic_rl": [{"path": str(LOGIC_RL), "size": 60, "split": "test"}],
    "knights_knaves_perturbed": [{"size": 40, "kind": kind} for kind in ("statement", "uncommon_name")],
    # Other tasks, whose gold their own tests try; and a user's own rows.
    **dict.fromkeys(
        ("aime", "amc", "arithmetic", "bfcl", "countdown", "gpqa", "gsm8k", "instructions", "math", "mix"), []
    ),
    **dict.fromkeys(("humaneval", "ifeval", "livecodebench", "mmlu", "olympiadbench", "svamp"), []),
    **dict.fromkeys(("reasoning_gym", "rows", "traces", "verifiers"), []),
    **dict.fromkeys(("desk_transcripts", "number_guess_transcripts"), []),  # tests/data/test_transcripts.py
    **dict.fromkeys(lookup.names("environments"), []),  # their rows have no answer: tests/environments
}
PUZZLE_REWARDS = {
    "knights_knaves": [({"mode": "strict"}, 1.0), ({"mode": "logic_rl"}, 3.0)],
    "format": [({"mode": "strict"}, 1.0), ({"mode": "soft"}, 1.0)],
}

AGE = {"name": "age", "parameters": {"type": "object", "properties": {"person": {"type": "string"}}}}
THINK = "<think> First, we add the numbers.\n\nSecond, we look at the sum.\n\nFinally, we write it down. </think>\n"
# Of every other reward: a completion that deserves the maximum, its row, settings, and that maximum.
REWARDS = {
    "accuracy": (THINK + r"It is $\boxed{\frac{1}{2}}$.", {"answer": "0.5"}, {}, 1.0),
    "budget": ("short", {"right": True, "budget": 9999}, {"mode": "at_most"}, 1.0),
    "choice": (THINK + "<answer> (B) </answer>", {"answer": "B"}, {}, 1.0),
    "code": (
        "```python\nprint(sum(map(int, input().split())))\n```",
        {"tests": [{"input": "1 2", "output": "3"}]},
        {},
        1.0,
    ),
    "cosine_length": ("", {"right": True}, {"max_len": 99}, 1.0),
    "countdown": (THINK + "<answer> (3 + 5) * 2 </answer>", {"numbers": [2, 3, 5], "target": 16}, {}, 1.0),
    "exact_match": (THINK + "<answer> Paris </answer>", {"answer": "paris"}, {}, 1.0),
    "instruction": (THINK + "So we do.", {"constraints": [{"kind": "no_commas"}]}, {}, 1.0),
    "language_consistency": (THINK, {"language": "en"}, {}, 1.0),
    "length": ("short", {"right": True}, {}, 0.5),
    "reasoning_steps": (THINK, {}, {}, 1.0),
    "repetition": ("one two three four", {}, {}, 0.0),
    "soft_overlong": ("short", {}, {"max_completion_length": 99, "cache": 9}, 0.0),
    "tag_count": (THINK + "<answer> 4 </answer>", {}, {}, 1.0),
    "tool_calls": (
        THINK + '<tool_call>\n{"name": "age", "arguments": {"person": "Mia"}}\n</tool_call>',
        {"answer": [{"name": "age", "arguments": {"person": "Mia"}}], "tools": [AGE]},
        {},
        1.0,
    ),
}
OWN_TESTS = {
    "environment",
    "judge",
    "majority",
    "reasoning_gym",
    "reward_model",
    "fluency",
}  # they have no gold of ours: an environment, a server, the group, a package, models


def test_every_builder_and_every_reward_is_tried():
    assert set(BUILDERS) == set(r1lab.data.__all__)
    rewards = {name.removesuffix("_reward") for name in r1lab.rewards.__all__ if name.endswith("_reward")}
    assert PUZZLE_REWARDS.keys() | REWARDS.keys() | OWN_TESTS == rewards


@pytest.mark.parametrize("model", EMBEDDED)
@pytest.mark.parametrize("builder", sorted(name for name, tries in BUILDERS.items() if tries))
def test_gold_survives_the_tokenizer(model, builder):
    if builder == "logic_rl" and not LOGIC_RL.is_dir():
        pytest.skip("needs ../shared/data/logic_rl_kk")
    tokenizer = loading.load_tokenizer(f"embedded:{model}")
    for parameters in BUILDERS[builder]:
        rows = lookup.function("data", builder)(**parameters)
        gold = [row.get("completion") or complete("One of them lies.", row["answer"]) for row in rows]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in gold]
        back = tokenizer.batch_decode(ids, skip_special_tokens=True)
        for reward, tries in PUZZLE_REWARDS.items():
            for settings, full in tries:
                function = lookup.function("rewards", reward)
                scores = function(back, answer=[row["answer"] for row in rows], **settings)
                assert scores == [full] * len(rows), (reward, settings, [s.reason for s in scores if s != full][:3])


@pytest.mark.parametrize("model", EMBEDDED)
@pytest.mark.parametrize("reward", sorted(REWARDS))
def test_what_deserves_the_maximum_gets_it_after_the_tokenizer_too(model, reward):
    text, row, settings, full = REWARDS[reward]
    tokenizer = loading.load_tokenizer(f"embedded:{model}")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    back = tokenizer.decode(ids + [tokenizer.eos_token_id], skip_special_tokens=True)
    others = ["a longer completion, to be compared with"] if reward == "length" else []
    batch, token_ids = [back] + others, [ids] + [list(range(99)) for _ in others]
    function = lookup.function("rewards", reward)
    columns = {key: [value] * len(batch) for key, value in row.items()} | {"groups": [0] * len(batch)}
    scores = function(batch, prompts=["?"] * len(batch), completion_ids=token_ids, **columns, **settings)
    assert scores[0] == full, scores[0].reason
