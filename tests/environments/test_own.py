"""r1lab's own environments: the gold player earns 1, others do not; an episode depends on its row and seed alone."""

import random

import pytest

from r1lab import lookup
from r1lab.environments import Call, Turn
from r1lab.environments.knights_knaves_ask import best_question, needed
from r1lab.environments.make import make
from r1lab.environments.players import gold, nothing, played
from r1lab.environments.toolset import methods, schema

OWN = lookup.names("environments")
ROWS = {
    "number_guess": {"numbers": [10, 16, 31]},
    "desk": {"hops": [0, 1, 2], "terms": [1, 2]},
    "knights_knaves_ask": {"people": [2, 3, 4]},
}


def rows(name, size=30, **settings):
    return lookup.function("data", name)(size=size, **ROWS[name] | settings)


def session(name, **parameters):
    return make({"environment": {"name": name, **parameters}, "tools": []})


def guessing(name, row, rng):
    """A player that knows the rules but nothing of the episode."""

    def player(said):
        if name == "number_guess":
            return f"<answer> {rng.randint(row['low'], row['high'])} </answer>"
        if name == "desk":
            return f"<answer> {rng.randint(10, 99)} </answer>"
        return " ".join(f"{person} is a {rng.choice(['knight', 'knave'])}." for person in row["names"])

    return player


def test_every_environment_of_our_own_is_tried():
    assert ROWS.keys() == set(OWN) != set()


@pytest.mark.parametrize("name", OWN)
def test_the_gold_player_earns_1_and_others_do_not(name):
    rng, guessed = random.Random(0), []
    for seed, row in enumerate(rows(name)):
        made = session(name)
        player = gold(made.environment, row)
        game = played(made, row, seed, player, turns=12)
        assert game.reward == 1.0 and game.ended, (row, game)
        assert played(session(name), row, seed, nothing, turns=12).reward == 0.0
        guessed.append(played(session(name), row, seed, guessing(name, row, rng), turns=12).reward)
    assert sum(guessed) / len(guessed) < {"number_guess": 0.8, "desk": 0.2, "knights_knaves_ask": 0.7}[name]


@pytest.mark.parametrize("name", OWN)
def test_the_seed_decides_what_is_drawn(name):
    (row,) = rows(name, 1)

    def game(seed):
        made = session(name)
        found = played(made, row, seed, gold(made.environment, row), turns=12)
        return found.said, found.turns

    assert game(7) == game(7)
    assert len({str(game(seed)) for seed in range(12)}) > 1


@pytest.mark.parametrize("name", OWN)
def test_two_episodes_share_nothing(name):
    first, second = rows(name, 2)
    alone = [played(s, row, 3, gold(s.environment, row), turns=12) for row in (first, second) for s in [session(name)]]
    pair = [session(name), session(name)]
    players = [gold(made.environment, row) for made, row in zip(pair, (first, second))]
    said = [[made.reset(row, 3) or ""] for made, row in zip(pair, (first, second))]
    running = {0, 1}
    while running:  # a turn of each in turn
        for i in list(running):
            turn = players[i](said[i][-1])
            text, calls = (turn, []) if isinstance(turn, str) else ("", turn)
            replies = pair[i].step(Turn(text, calls))
            said[i] += ["\n".join(reply.content for reply in replies)] if replies else []
            running -= {i} if not replies or replies[-1].done else set()
    assert [said[0], said[1]] == [game.said for game in alone]
    assert [made.reward() for made in pair] == [1.0, 1.0]


@pytest.mark.parametrize("name", OWN)
def test_the_tools_have_schemas(name):
    for tool in methods(session(name).environment):
        assert schema(tool)["function"]["description"]


def test_a_guess_that_is_no_number_is_lost():
    made = session("number_guess", guesses=2)
    assert made.reset({"low": 1, "high": 3}, seed=1) == (
        "You have 2 guesses. After each, I say whether my number is higher or lower."
    )
    (reply,) = made.step(Turn("<think> 1 or 2 </think> I do not know."))
    assert (reply.content, reply.error, reply.done) == ("Write a number.", "no number", False)
    (reply,) = made.step(Turn("99999999999999999999"))
    assert (reply.content, reply.done) == ("You have no guesses left.", True) and made.reward() == 0.0


def test_guesses_inside_what_is_left_may_earn_something():
    made = session("number_guess", guesses=9, inside=0.125)
    made.reset({"low": 1, "high": 100}, seed=1)
    secret = made.environment.secret
    other = 1 if secret > 50 else 100
    for guess in (other, other, secret):  # the second is not allowed by the reply to the first
        made.step(Turn(str(guess)))
    assert made.reward() == 1.25


@pytest.mark.parametrize("text", ["<think> {right} </think>", "{right} or 7", "", "<answer> {right}1 </answer>"])
def test_a_last_turn_that_does_not_give_the_age_earns_nothing(text):
    (row,) = rows("desk", 1)
    made = session("desk")
    made.reset(row, 5)
    right = made.environment._right
    assert made.step(Turn(text.format(right=right))) == [] and made.reward() == 0.0
    assert str(right) in made.info()["reason"]


def test_a_person_who_is_not_there_is_refused():
    for name, call in (("desk", Call("age", {"person": "Nobody"})),
                       ("knights_knaves_ask", Call("ask", {"person": "Nobody", "about": "Nobody"}))):  # fmt: skip
        made = session(name)
        made.reset(rows(name, 1)[0], 0)
        (reply,) = made.step(Turn("", [call]))
        assert reply.content.endswith("nobody here is called Nobody") and not reply.raised


def test_a_further_question_costs_its_price_and_hedging_earns_nothing():
    (row,) = rows("knights_knaves_ask", 1, people=2)
    made = session("knights_knaves_ask", price=0.25)
    made.reset(row, 2)
    world = made.environment._knights
    right = ". ".join(f"{name} is a {'knight' if knight else 'knave'}" for name, knight in world.items())
    first, second = row["names"]
    for _ in range(3):
        (reply,) = made.step(Turn("", [Call("ask", {"person": first, "about": second})]))
    assert (
        reply.content == f"{first} says that {second} is a {'knight' if world[first] == world[second] else 'knave'}."
    )
    made.step(Turn(right))
    assert made.reward() == 1 - 2 * 0.25
    made.step(Turn(f"{right}. {first} is a knight. {first} is a knave."))
    assert made.reward() == 0.0


def test_worlds_that_no_question_distinguishes_have_no_strategy():
    both = [(True, False, True), (False, True, False)]
    assert needed(both) is None and needed(both[:1]) == 0
    assert needed([(True, True, True), (True, True, False), (True, False, True)]) == 2
    assert best_question([(True, True, True), (True, True, False)]) in [(0, 2), (1, 2)]
