"""The format reward: what is well-formed, what is not, and why."""

import time

import pytest

from r1lab.errors import UserError
from r1lab.rewards import format_reward

GOOD = "<think> Two and two make four. </think>\n<answer> 4 </answer>"


def reason(text, **settings):
    (score,) = format_reward([text], **settings)
    return score, score.reason


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n {GOOD} \n",
        "<think>\n2+2=4\n</think>\n\n<answer>\n4\n</answer>",
        "<think>我们来想想。</think><answer>四</answer>",
        "<think> The tag think holds < and > and </ b. </think><answer> $x<1$ </answer>",
        "<think> Thinking: is it a placeholder? 4 > 3. </think> <answer> four </answer>",
        "<think>\u202eright to left\u202c</think><answer>x</answer>",
        "<think>null \x00 byte</think>\r\n<answer>\x00 4</answer>",
        "<think> " + "so " * 300_000 + "</think><answer> 4 </answer>",
        "<think> THINK </ANSWER> THINK of two </think><answer> <b>4</b> </answer>",
        "<think> \\boxed{4} \\boxed{5} </think><answer> \\boxed{4} </answer>",
    ],
)
def test_well_formed(text):
    assert reason(text) == (1.0, "well_formed")
    assert reason(text, mode="soft") == (1.0, "well_formed")


BAD = {
    "": "no_format: no <think>",
    "4": "no_format: no <think>",
    "Two. </think><answer> 4 </answer>": "no_format: no <think>",
    "<think> Two. <answer> 4 </answer>": "no_format: no </think>",
    "<think> Two. </think> 4": "no_format: no <answer>",
    "<think> Two. </think><answer> 4": "no_format: no </answer>",
    "<THINK> Two. </THINK><answer> 4 </answer>": "no_format: no <think>",
    "<think><think> Two. </think><answer> 4 </answer>": "no_format: more than one <think>",
    "<think> Two. </think></think><answer> 4 </answer>": "no_format: more than one </think>",
    "<think> Two. </think><answer> 4 </answer><answer> 5 </answer>": "no_format: more than one <answer>",
    "<think> a </think><think> b </think><answer> 4 </answer>": "no_format: more than one <think>",
    "<answer> 4 </answer><think> Two. </think>": "no_format: tags out of order",
    "<think> Two. <answer> 4 </answer></think>": "no_format: tags out of order",
    "</think> Two. <think><answer> 4 </answer>": "no_format: tags out of order",
    "<think></think><answer> 4 </answer>": "empty_thinking",
    "<think> \n\t </think><answer> 4 </answer>": "empty_thinking",
    "<think> ... --- ... </think><answer> 4 </answer>": "empty_thinking",
    "<think> reasoning process here </think><answer> 4 </answer>": "empty_thinking",
    "<think>Reasoning process here. Reasoning process here.</think><answer> 4 </answer>": "empty_thinking",
    "<think> thinking process here </think><answer> 4 </answer>": "empty_thinking",
    "<think> this is a think message </think><answer> 4 </answer>": "empty_thinking",
    "<think> ___ </think><answer> 4 </answer>": "empty_thinking",
    "<think> Two. </think><answer></answer>": "empty_answer",
    "<think> Two. </think><answer> answer here </answer>": "empty_answer",
}


@pytest.mark.parametrize(("text", "why"), BAD.items())
@pytest.mark.parametrize("mode", ["strict", "soft"])
def test_badly_formed(text, why, mode):
    assert reason(text, mode=mode) == (0.0, why)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f"Sure! {GOOD}", "before <think>"),
        (GOOD.replace("</think>", "</think> So:"), "between the blocks"),
        (f"{GOOD} Wait, let me think again.", "after </answer>"),
        (f"{GOOD}<|im_start|>", "after </answer>"),
    ],
)
def test_text_outside_the_blocks_is_for_soft_mode_only(text, where):
    assert reason(text) == (0.0, f"no_format: text {where}")
    assert reason(text, mode="soft") == (1.0, "well_formed")


def test_long_degenerate_completions_take_no_time():
    started = time.process_time()
    # A regular expression with two neighbouring stars would take minutes here.
    for filler in (" ", "\n", "<", "<think", ". ", "_"):
        format_reward([f"<think>{filler * 50_000}</think>{filler * 50_000}<answer>{filler * 50_000}</answer>"])
    assert time.process_time() - started < 10


def test_unknown_mode():
    with pytest.raises(UserError, match="format: mode: 'lax' is not strict or soft"):
        format_reward([GOOD], mode="lax")
