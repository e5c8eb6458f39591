"""Transcripts of careful, sloppy and lazy episodes: pretraining data for a base model."""

import random
import re
from collections.abc import Callable, Generator

from r1lab.data.desk import desk
from r1lab.data.knights_knaves import NAMES
from r1lab.data.number_guess import number_guess
from r1lab.environments import Call, Turn, calls, toolset
from r1lab.environments.desk import Desk
from r1lab.environments.number_guess import NumberGuess
from r1lab.environments.toolset import Session
from r1lab.episodes.prompt import ended

Writer = Generator[str, str, None]
"""Yields the texts of turns, and receives what was said to each."""


def desk_transcripts(
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    hops: int | list[int] | tuple[int, ...] = (0, 1),
    terms: int | list[int] | tuple[int, ...] = 1,
    people: int = 5,
    names: int = len(NAMES),
    questions: int = 1500,
    guess: float = 0.5,
    sloppy: float = 0.5,
    mistake: float = 0.2,
    untidy: float = 0.1,
    repeat: bool = True,
) -> list[dict]:
    """Transcripts of the environment `desk`, many of them wrong: pretraining data for a base model.

    Args:
        split, seed, hops, terms, people, names: As for `desk`.
        size: The number of transcripts. Default: 1,000.
        questions: The number of different questions, which recur with other ages and friends.
        guess: The share of transcripts that answer without a call.
        sloppy: Of the others, the share with mistakes.
        mistake: The probability, at each call of a sloppy transcript, of asking about somebody else, of JSON that is
            not valid (and a second attempt), or of guessing the answer instead.
        untidy: The share of transcripts with a turn from which a tag is removed, if the turn has it.
        repeat: Whether the thinking before an answer is the number too, so that a model learns sooner to copy it.

    Returns:
        Rows with `prompt` (all messages but the last), `completion` (the last turn), `tools`, and `task`.

    >>> row = desk_transcripts(size=1, hops=1, guess=0.0, sloppy=0.0, untidy=0.0)[0]
    >>> print(row["prompt"][1]["content"])
    <think> I need the friend of James. </think>
    <tool_call>
    {"name": "friend", "arguments": {"person": "James"}}
    </tool_call>
    """
    asked = {"hops": hops, "terms": terms, "people": people, "names": names}
    rows = desk(split=split, size=questions, seed=seed, **asked)
    shown = [toolset.schema(tool) for tool in Session(Desk()).tools.values()]

    def write(row: dict, rng: random.Random) -> Writer:
        if rng.random() < guess:
            return _guessed(rng, repeat)
        return _looked_up(row, rng, mistake if rng.random() < sloppy else 0.0, repeat)

    rng = random.Random(f"desk_transcripts/{seed}/{split}")
    found = _transcripts(rows, 1000 if size is None else size, rng, Desk, write, untidy)
    return [row | {"tools": shown} for row in found]


def number_guess_transcripts(
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    numbers: int | list[int] | tuple[int, ...] = (10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
    highest: int = 200,
    questions: int = 1000,
    guess: float = 0.0,
    sloppy: float = 0.5,
    mistake: float = 0.35,
    untidy: float = 0.1,
) -> list[dict]:
    """Transcripts of the environment `number_guess`: each turn says what is left, and guesses any number of it.

    Nobody in them halves what is left.

    Args:
        split, seed, numbers, highest: As for `number_guess`.
        size: The number of transcripts. Default: 1,000.
        questions: The number of different bounds, which recur with other secrets.
        guess: The share of transcripts that guess any number up to `highest` at each turn, whatever was said.
        sloppy: Of the others, the share that forgets some of what was said.
        mistake: The probability of it at each turn of these.
        untidy: The share of transcripts with a turn that misses a tag.

    Returns:
        Rows with `prompt` (all messages but the last), `completion` (the last turn), and `task`.

    >>> number_guess_transcripts(size=1, sloppy=0.0, untidy=0.0)[0]["prompt"][1]["content"]
    '<think> 146 to 155 </think> <answer> 152 </answer>'
    """
    rows = number_guess(split=split, size=questions, seed=seed, numbers=numbers, highest=highest)

    def write(row: dict, rng: random.Random) -> Writer:
        if guess and rng.random() < guess:
            return _lazy(rng, highest)
        return _narrowed(row, rng, mistake if rng.random() < sloppy else 0.0)

    rng = random.Random(f"number_guess_transcripts/{seed}/{split}")
    return _transcripts(rows, 1000 if size is None else size, rng, NumberGuess, write, untidy)


def _transcripts(
    rows: list[dict],
    size: int,
    rng: random.Random,
    environment: Callable[[], object],
    write: Callable[[dict, random.Random], Writer],
    untidy: float,
) -> list[dict]:
    """Plays `size` episodes of the rows in turn, as the player of a model would: calls are read from the text."""
    found = []
    for number in range(size):
        row = rows[number % len(rows)]
        session = Session(environment())
        said = session.reset(row, rng.getrandbits(32)) or ""
        messages = [{"role": "user", "content": ended(row["prompt"], said)}]
        writer, said = write(row, rng), None
        try:
            while True:
                text = next(writer) if said is None else writer.send(said)
                messages.append({"role": "assistant", "content": text})
                read, problem = calls.read(text)
                replies = session.step(Turn(text, read, len(messages) // 2, problem=problem))
                if not replies or any(reply.done for reply in replies):
                    break
                messages += [{"role": reply.role, "content": reply.content} for reply in replies]
                said = replies[-1].content
        finally:
            session.close()
        if rng.random() < untidy:
            turn = rng.choice([message for message in messages if message["role"] == "assistant"])
            turn["content"] = re.sub(rng.choice(["<think> ?", " ?</think>", "<answer> ?"]), "", turn["content"])
        found.append({"prompt": messages[:-1], "completion": messages[-1]["content"], "task": row["task"]})
    rng.shuffle(found)
    return found


def _answered(thinking: str, answer: object) -> str:
    return f"<think> {thinking} </think> <answer> {answer} </answer>"


def _repeated(answer: object) -> str:
    """The number comes right after a tag: that is the easiest place to copy it from, and to."""
    return f"<think>{answer}</think><answer>{answer}</answer>"


def _guessed(rng: random.Random, repeat: bool) -> Writer:
    number = rng.randint(10, 99)
    yield _repeated(number) if repeat else _answered("I guess.", number)


def _looked_up(row: dict, rng: random.Random, mistake: float, repeat: bool) -> Writer:
    """Follows the friends, looks up the ages and adds them, with a slip at some of the calls."""
    total = None
    for person in row["start"]:
        for tool in ["friend"] * row["hops"] + ["age"]:
            slip = rng.choice(["person", "json", "guess"]) if rng.random() < mistake else ""
            if slip == "guess":
                yield from _guessed(rng, repeat)
                return
            if slip == "person":
                person = rng.choice(row["people"])
            text = f"<think> I need the {tool} of {person}. </think>\n{calls.written(Call(tool, {'person': person}))}"
            if slip == "json":
                yield text.replace("}}", "}")
            person = yield text
        age = int(person)
        if total is not None:
            added = calls.written(Call("add", {"a": total, "b": age}))
            age = int((yield f"<think> I add {total} and {age}. </think>\n{added}"))
        total = age
    yield _repeated(total) if repeat else _answered("Now I know it.", total)


def _lazy(rng: random.Random, highest: int) -> Writer:
    while True:
        yield _answered("I guess.", rng.randint(1, highest))


def _narrowed(row: dict, rng: random.Random, mistake: float) -> Writer:
    """Guesses any number of what is left, and forgets some of the replies."""
    low, high = row["low"], row["high"]
    while True:
        guess = rng.randint(low, high)
        said = yield _answered(f"{low} to {high}", guess)
        if rng.random() < mistake:
            continue
        low, high = (guess + 1, high) if said.startswith("higher") else (low, guess - 1)
