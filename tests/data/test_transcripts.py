"""Transcripts of episodes: what a player without a slip writes is right, and lazy ones call nothing."""

import pytest

from r1lab.data import desk_transcripts, number_guess_transcripts
from r1lab.environments import calls
from r1lab.rewards.format import TAGS

CAREFUL = {"sloppy": 0.0, "untidy": 0.0}
BUILDERS = {"desk": desk_transcripts, "number_guess": number_guess_transcripts}


def said(row):
    return [message["content"] for message in row["prompt"] if message["role"] in ("tool", "user")]


@pytest.mark.parametrize("name", BUILDERS)
def test_a_seed_gives_its_transcripts_and_each_split_has_its_own(name):
    rows = BUILDERS[name](size=40, questions=20)
    assert rows == BUILDERS[name](size=40, questions=20) != BUILDERS[name](size=40, questions=20, seed=1)
    asked = {row["prompt"][0]["content"] for row in rows}
    assert len(asked) == 20
    assert not asked & {row["prompt"][0]["content"] for row in BUILDERS[name](size=40, questions=20, split="test")}


def test_a_careful_desk_transcript_answers_with_what_the_last_tool_said():
    rows = desk_transcripts(size=30, hops=[0, 2], terms=[1, 2], guess=0.0, **CAREFUL)
    for row in rows:
        assert row["completion"].endswith(f"<answer>{said(row)[-1]}</answer>")
    assert {tool["function"]["name"] for tool in rows[0]["tools"]} == {"add", "age", "friend"}


def test_a_lazy_desk_transcript_calls_nothing_and_a_sloppy_one_slips():
    assert all(len(row["prompt"]) == 1 for row in desk_transcripts(size=20, guess=1.0))
    slips = [said(row) for row in desk_transcripts(size=60, hops=1, guess=0.0, sloppy=1.0, mistake=0.5, untidy=0.0)]
    assert any("not valid JSON" in text for texts in slips for text in texts)
    assert any(len(texts) < 3 for texts in slips)


def test_a_careful_game_guesses_only_what_is_left_and_a_sloppy_or_lazy_one_also_elsewhere():
    def inside(row):
        guesses = [text.rpartition("<answer> ")[2].split()[0] for text in written(row)]
        found = []
        low, high = (int(word) for word in row["prompt"][0]["content"].split(".")[0].split() if word.isdigit())
        for guess, reply in zip(map(int, guesses), [*said(row)[1:], ""], strict=True):
            found.append(low <= guess <= high)
            low, high = (max(low, guess + 1), high) if reply == "higher" else (low, min(high, guess - 1))
        return all(found)

    assert all(map(inside, number_guess_transcripts(size=40, **CAREFUL)))
    assert not all(map(inside, number_guess_transcripts(size=40, sloppy=1.0, mistake=0.5, untidy=0.0)))
    lazy = number_guess_transcripts(size=40, guess=1.0, untidy=0.0)
    assert not all(map(inside, lazy)) and all("I guess." in text for row in lazy for text in written(row))


def test_an_untidy_turn_misses_a_tag_and_its_call_can_still_be_read():
    rows = desk_transcripts(size=30, hops=0, guess=1.0, untidy=1.0)
    assert all(sum(row["completion"].count(tag) for tag in TAGS) == len(TAGS) - 1 for row in rows)
    rows = desk_transcripts(size=30, hops=0, guess=0.0, sloppy=0.0, untidy=1.0)
    assert all(len(calls.read(written(row)[0])[0]) == 1 for row in rows)


def written(row):
    turns = [message["content"] for message in row["prompt"] if message["role"] == "assistant"]
    return [*turns, row["completion"]]
