"""What servers send back: thinking in all its places, finish reasons in all their names."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1lab.engines.replies import Failure, completions

LIMIT = 100


def read(choice, usage=None):
    reply = {"choices": [choice]} | ({"usage": {"completion_tokens": usage}} if usage is not None else {})
    ((completion,), opened) = completions(json.dumps(reply).encode(), 1, LIMIT)
    return completion, opened


def said(content, finish="stop", **fields):
    return {"message": {"role": "assistant", "content": content, **fields}, "finish_reason": finish}


@pytest.mark.parametrize(
    "content, expected",
    [
        ("two and two</think>4", "<think>\ntwo and two</think>4"),
        ("\ntwo and two\n</think>\n\n4", "<think>\ntwo and two\n</think>\n\n4"),
        ("</think>4", "<think>\n</think>4"),
        ("2</think>4 <think>", "<think>\n2</think>4 <think>"),
    ],
)
def test_a_tag_that_the_template_opens_is_put_back(content, expected):
    completion, opened = read(said(content))
    assert completion.text == expected and opened


@pytest.mark.parametrize("content", ["4", "<think>2</think>4", "<think>2", "a <think> b </think>", ""])
def test_nothing_is_put_back_where_the_thinking_is_whole_or_missing(content):
    assert read(said(content)) == (read({"text": content, "finish_reason": "stop"})[0], False)


def test_a_text_that_is_continued_is_taken_as_it_is():
    """Its prompt, opening tag included, was written here."""
    completion, opened = read({"text": "two</think>4", "finish_reason": "stop"})
    assert completion.text == "two</think>4" and not opened


@pytest.mark.parametrize(
    "message",
    [
        {"content": "4", "reasoning_content": "2 + 2"},
        {"content": "4", "reasoning": "2 + 2"},
        {"content": "4", "reasoning": "2 + 2", "reasoning_content": "2 + 2"},
        {"content": "4", "reasoning": "2 + 2", "reasoning_content": None},
        {"content": [{"type": "thinking", "thinking": "2 + 2"}, {"type": "text", "text": "4"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "2 + 2"}]},
                     {"type": "text", "text": "4"}]},
        {"content": [{"type": "reasoning", "text": "2 + 2"}, {"type": "output_text", "text": "4"}]},
        {"content": "<think>\n2 + 2\n</think>\n\n4", "reasoning_content": "2 + 2"},
    ],
)  # fmt: skip
def test_thinking_in_a_place_of_its_own_stands_once_before_the_answer(message):
    completion, _ = read({"message": message, "finish_reason": "stop"})
    assert completion.text == "<think>\n2 + 2\n</think>\n\n4"


def test_content_in_parts_is_joined():
    parts = [{"type": "text", "text": "It is "}, {"type": "text", "text": "4."}]
    assert read(said(parts))[0].text == "It is 4."
    assert read(said([{"type": "text", "text": ""}]))[0].text == ""
    assert read(said([{"type": "thinking", "thinking": "2 +"}], "length"))[0].text == "<think>\n2 +"


@pytest.mark.parametrize("parts", [[], ["half"], [1], [{"type": "image_url"}], [{"type": "text", "text": 4}], [{}],
                                   [{"type": "tool_use", "text": "4"}]])  # fmt: skip
def test_parts_that_are_no_text_are_no_answer(parts):
    if parts == []:
        assert read(said(parts))[0].text == ""
        return
    with pytest.raises(Failure, match="a choice has no text"):
        read(said(parts))


@pytest.mark.parametrize(
    "finish, truncated",
    [("stop", False), ("STOP", False), ("eos", False), ("eos_token", False), ("stop_sequence", False),
     ("end_turn", False), ("endTurn", False), ("COMPLETE", False), ("FINISH_REASON_STOP", False), ("done", False),
     ("length", True), ("LENGTH", True), ("max_tokens", True), ("MAX_TOKENS", True), ("maxTokens", True),
     ("model_length", True), ("max_length", True), ("token_limit", True), ("FINISH_REASON_MAX_TOKENS", True)],
)  # fmt: skip
def test_finish_reasons_have_many_names(finish, truncated):
    assert read(said("4", finish))[0].truncated == truncated


@pytest.mark.parametrize(
    "finish", [None, "", "abort", "aborted", "error", "content_filter", "SAFETY", "cancelled", "incomplete",
               "tool_calls", "FINISH_REASON_UNSPECIFIED", "recitation", ["stop"], 0,
               "endpoint_error", "stop_error", "unstoppable"],
)  # fmt: skip
def test_what_is_not_whole_is_no_answer(finish):
    with pytest.raises(Failure, match="not complete"):
        read(said("4", finish))


@pytest.mark.parametrize("usage, truncated", [(7, False), (LIMIT, True), (LIMIT + 1, True)])
def test_without_a_finish_reason_the_number_of_tokens_decides(usage, truncated):
    assert read(said("4", None), usage)[0].truncated == truncated
    with pytest.raises(Failure, match="not complete"):
        read(said("4", "abort"), usage)


JSON = st.recursive(
    st.sampled_from([None, True, 1, "", "text", "thinking", "output_text", "two</think>4", "<think>"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "thinking", "content", "reasoning", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # on a busy machine
@given(message=st.fixed_dictionaries({}, optional={"content": JSON, "reasoning": JSON, "reasoning_content": JSON}))
def test_any_message_is_a_text_or_a_failure(message):
    try:
        completion, _ = read({"message": message, "finish_reason": "stop"})
    except Failure:
        return
    assert isinstance(completion.text, str)
