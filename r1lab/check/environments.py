"""Plays episodes without a model: by the environment's own `solve`, by saying nothing, and at random.

Everything runs in worker processes with the deadlines of a run, because it is a user's code.
"""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from r1lab import lookup
from r1lab.check.rewards import DEADLINE, TooLong, deadline
from r1lab.check.seen import Seen
from r1lab.environments import Call, calls, make, toolset
from r1lab.environments.players import Game, Player, at_random, hosted, nothing
from r1lab.environments.processes import ProcessHost
from r1lab.environments.tools import server_of
from r1lab.episodes.engine import task_seed
from r1lab.episodes.prompt import beginning
from r1lab.episodes.template import TurnTemplate
from r1lab.errors import UserError
from r1lab.findings import Finding, Verdict
from r1lab.recipe.acting import Environment, environment_of
from r1lab.recipe.environments import columns
from r1lab.recipe.schema import StageRecipe
from r1lab.stages.playing import longest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EPISODES = 8
"""Rows on which an environment is played, by each player."""

TURNS = 64
"""The maximum number of turns of `solve`, which may exceed the recipe's."""

CHANCE = 0.5
"""The share of episodes above which a random player earns 1 too often."""

NAME = ("environment", "name")


def environment_findings(seen: Seen, *, tiny: bool = False) -> list[Finding]:
    """What is wrong with the environment and the tools of a stage; nothing if it has neither.

    Args:
        tiny: The limits of the recipe are too short for the gold player, by `--tiny`.
    """
    section = environment_of(seen.recipe)
    if section is None:
        return []
    found = _rendered(seen)
    spec, servers = _without_servers(seen.recipe)
    if servers:
        found.append(Finding("ok", "environment", "the tools of an MCP server were not tried", keys=("tools",)))
    if section.name is None:
        return found + schemas_of(spec)[1]
    if section.name.partition(":")[0] in lookup.ADAPTERS:
        what = f"{section.name}: belongs to another library, which may need a server, so it was not tried"
        return [*found, Finding("ok", "environment", what, keys=NAME)]
    rows = seen.rows[:: max(1, len(seen.rows) // EPISODES)][:EPISODES]
    if not rows:
        return found
    if lacking := _lacking(section.name, seen.rows):
        return found + lacking
    try:
        return found + _played(_Tried(seen, section, spec, rows, tiny))
    except UserError as error:  # a row that cannot be sent to another process
        return found + [Finding("error", "environment", problem, keys=("data",)) for problem in error.problems]


def shown_tools(recipe: StageRecipe) -> list[dict]:
    """The schemas of the tools that a stage's model is shown; none of those that are wrong, or need a server."""
    section = environment_of(recipe)
    if section is None or (section.name or "").partition(":")[0] in lookup.ADAPTERS:
        return []
    return schemas_of(_without_servers(recipe)[0])[0]


def _without_servers(recipe: StageRecipe) -> tuple[dict[str, Any], list]:
    """The specification of an environment without the tools of servers, which are not started here; and these."""
    spec = make.spec_of(recipe)
    servers = [entry for entry in spec["tools"] if server_of(entry)]
    return spec | {"tools": [entry for entry in spec["tools"] if entry not in servers]}, servers


def _rendered(seen: Seen) -> list[Finding]:
    """Whether the chat template has a place for replies."""
    if seen.tokenizer is None or seen.prompt is None:
        return []
    try:
        TurnTemplate(seen.tokenizer, **seen.prompt.model_dump())
    except UserError as error:
        keys = ("prompt", "template")
        texts = [problem.removeprefix("prompt.template: ") for problem in error.problems]
        return [Finding("error", "environment", text, keys=keys) for text in texts]
    return []


def _lacking(name: str, rows: list[dict]) -> list[Finding]:
    """The columns that `reset` requires and rows lack."""
    found = []
    for column in columns(lookup.function("environments", name)):
        if without := sum(column not in row for row in rows):
            what = f"{name}: {without} of {len(rows)} rows have no column `{column}`, which its `reset` requires"
            fix = f"add it to the rows, or give the parameter `{column}` of `reset` a default"
            found.append(Finding("error", "environment", what, fix, ("data",)))
    return found


@dataclass
class _Tried:
    """An environment that is tried on rows."""

    seen: Seen
    section: Environment
    spec: dict[str, Any]
    rows: list[dict]
    tiny: bool

    @cached_property
    def solvable(self) -> bool:
        """Whether the environment has a gold player, with these parameters."""
        try:
            with deadline(DEADLINE):
                return callable(getattr(make.make(self.spec).environment, "solve", None))
        except (TooLong, ValueError, UserError):  # `schemas_of` says it
            return False

    def host(self, maker: str) -> ProcessHost:
        """Where episodes are played: one process, so that they would meet in it what they share."""
        return ProcessHost(f"r1lab.environments.{maker}", self.spec, timeout=self.section.timeout, workers=1)

    def jobs(self, players: Sequence[Player]) -> list[tuple[dict, int, Player]]:
        """Episodes with the seeds that the first rows of a run get."""
        seeds = [task_seed(self.seen.recipe.seed, number) for number in range(len(self.rows))]
        return list(zip(self.rows, seeds, players, strict=True))

    def same(self, player: Player) -> list[tuple[dict, int, Player]]:
        """Episodes that have one player, which remembers nothing."""
        return self.jobs([player] * len(self.rows))


def _played(tried: _Tried) -> list[Finding]:
    name, most = str(tried.section.name), tried.section.max_turns
    maker, turns = ("players:solving", TURNS) if tried.solvable else ("make:make", most)
    plain = tried.host("make:make")
    first, again = tried.host(maker), tried.host(maker)
    try:
        silent = hosted(plain, tried.same(nothing), turns=most)
        if failed := _failed(name, silent, "a player that says nothing"):
            return failed
        schemas, wrong = schemas_of(tried.spec)
        if wrong:
            return wrong

        def random_jobs() -> list[tuple[dict, int, Player]]:
            return tried.jobs([at_random(schemas, row, number) for number, row in enumerate(tried.rows)])

        guessed = hosted(plain, random_jobs(), turns=most)
        if failed := _failed(name, guessed, "a player that calls and answers at random"):
            return failed

        def games(host: ProcessHost, *, together: bool = False) -> list[Game]:
            jobs = tried.same(nothing) if tried.solvable else random_jobs()
            return hosted(host, jobs, turns=turns, together=together)

        one = games(first)
        if failed := _failed(name, one, "its own `solve`"):
            return failed
        found = _repeated(tried, one, games(again), games(again, together=True))
        found += _earned(tried, one if tried.solvable else None, silent, guessed)
        return found + _fitting(tried, schemas, [*silent, *guessed, *one])
    finally:
        for host in (plain, first, again):
            host.close()


def schemas_of(spec: dict[str, Any]) -> tuple[list[dict], list[Finding]]:
    """The schemas of the tools, which the model is shown, and why there are none."""
    try:
        with deadline(DEADLINE):
            return [toolset.schema(tool) for tool in make.make(spec).tools.values()], []
    except TooLong:
        what = f"making the environment takes over {DEADLINE:.0f} s of CPU time"
        return [], [Finding("error", "environment", what, "do the work in `reset`", ("environment",))]
    except (ValueError, UserError) as error:
        what = f"a tool has no schema: {error}"
        fix = "give each argument a type and a description in the docstring"
        return [], [
            Finding("error", "environment", what, fix, ("environment",) if spec["environment"] else ("tools",))
        ]


def _failed(name: str, games: list[Game], player: str) -> list[Finding]:
    """Why episodes failed, one line for each kind of request."""
    found = []
    for request in dict.fromkeys(game.failed for game in games if game.failed):
        some = [game for game in games if game.failed == request]
        what = f"{name}: `{request}` fails in {len(some)} of {len(games)} episodes of {player}: {some[0].problem}"
        fix = "handle this case, because such an episode is not counted"
        keys = NAME
        if some[0].late and request == "step":
            fix, keys = "make it faster, or set a longer environment.timeout", ("environment", "timeout")
        found.append(Finding("error", "environment", what, fix, keys))
    return found


def _repeated(tried: _Tried, first: list[Game], again: list[Game], together: list[Game]) -> list[Finding]:
    """Whether the same seed gives the same episode, and whether episodes at the same time share nothing.

    Args:
        again: In another process.
        together: There too, all at the same time.
    """
    name = str(tried.section.name)
    environment: Any = lookup.function("environments", name)
    seeded = "seed" in inspect.signature(environment.reset).parameters
    if differing := _difference(first, again):
        what = f"{name}: the same row and seed give another episode: {differing}"
        fix = "draw everything from random.Random(seed), with the `seed` that `reset` gets"
        if not seeded:
            fix = "let `reset` take `seed`, and draw everything from random.Random(seed)"
        verdict: Verdict = "error" if tried.seen.recipe.stage == "grpo" else "warning"
        fix += ", so that the members of a group have the same task" if verdict == "error" else ""
        return [Finding(verdict, "environment", what, fix, NAME)]
    if differing := _difference(again, together):
        what = f"{name}: episodes at the same time change each other: {differing}"
        fix = "keep what belongs to an episode in `self`, and not in the class or the module"
        return [Finding("error", "environment", what, fix, NAME)]
    return []


def _difference(first: list[Game], second: list[Game]) -> str:
    """The first thing in which two plays of the same episodes differ."""
    for number, (one, other) in enumerate(zip(first, second, strict=True), 1):
        for before, after in zip([*one.said, one.reward], [*other.said, other.reward]):
            if before != after:
                return f"episode {number} has {_short(before)}, and then {_short(after)}"
        if len(one.said) != len(other.said):
            return f"episode {number} has {len(one.said)} replies, and then {len(other.said)}"
    return ""


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return f"a reward of {text}" if not isinstance(value, str) else repr(text if len(text) < 60 else text[:60] + "...")


def _worth(game: Game) -> float | None:
    return sum(game.reward.values()) if isinstance(game.reward, dict) else game.reward


def _right(games: list[Game]) -> int:
    return sum((_worth(game) or 0.0) >= 1 for game in games)


def _earned(tried: _Tried, solved: list[Game] | None, silent: list[Game], guessed: list[Game]) -> list[Finding]:
    """What each player earns, and whether the limits of the recipe suffice for the gold player."""
    name, count, found = str(tried.section.name), len(tried.rows), []
    named = [index for index, reward in enumerate(tried.seen.rewards) if reward.name == "environment"]
    worthless = all(game.reward is None for game in [*(solved or []), *silent, *guessed])
    if worthless and named:
        what = f"environment: {name} says of no episode what it is worth"
        return [Finding("error", "environment", what, "give it a method `get_reward`", ("rewards", named[0]))]
    if worthless:
        what = f"{name}: says of no episode what it is worth, so the other rewards decide"
        return [Finding("ok", "environment", what, keys=NAME)]
    if solved is not None and _right(solved) < count:
        worst = min(solved, key=lambda game: _worth(game) or 0.0)
        why = worst.info.get("reason") or ("" if worst.ended else f"not ended after {TURNS} turns")
        what = f"{name}: its own `solve` earns less than 1 in {count - _right(solved)} of {count} episodes: "
        what += f"{_worth(worst)}" + (f" ({why})" if why else "")
        found.append(Finding("error", "environment", what, "correct `solve`, the rules, or the rows", NAME))
    if idle := _right(silent):
        what = f"{name}: a player that says nothing earns 1 in {idle} of {count} episodes"
        found.append(Finding("error", "environment", what, "correct `get_reward`: a policy will exploit it", NAME))
    if (chance := _right(guessed)) > CHANCE * count and not idle:
        what = f"{name}: a player that calls and answers at random earns 1 in {chance} of {count} episodes"
        found.append(Finding("warning", "environment", what, "use harder rows, or correct `get_reward`", NAME))
    if solved is None:
        what = f"{name}: has no `solve`, so that whether its tasks can be solved was not tried"
        found.append(Finding("ok", "environment", what, keys=NAME))
    elif not found:
        turns = sorted(len(game.turns) for game in solved)
        what = (
            f"{name}: `solve` earns 1 in all of {count} episodes, in {turns[0]} to {turns[-1]} turns, a player that "
        )
        what += f"says nothing in {idle}, and a random one in {chance}"
        found.append(Finding("ok", "environment", what, keys=NAME))
    return found + (_limited(tried, solved) if solved and not tried.tiny else [])


def _limited(tried: _Tried, solved: list[Game]) -> list[Finding]:
    """Limits of the recipe that the gold player exceeds."""
    section, count, found = tried.section, len(solved), []

    def exceeded(what: str, needed: list[int], limit: int, keys: tuple[str, str]) -> None:
        if over := sum(one > limit for one in needed):
            said = f"{limit}: `solve` {what} than that in {over} of {count} episodes"
            found.append(Finding("warning", "environment", said, f"set at least {max(needed)}", keys))

    exceeded("needs more turns", [len(game.turns) for game in solved], section.max_turns, ("environment", "max_turns"))
    tokenizer, rollout = tried.seen.tokenizer, tried.seen.rollout
    if tokenizer is None or rollout is None:
        return found
    written = [_tokens(tokenizer, game) for game in solved]
    own = rollout.max_completion_length
    exceeded("writes more tokens", [sum(of) for of in written], own, ("rollout", "max_completion_length"))
    turn = section.max_turn_length or own
    if turn < own:
        keys = ("environment", "max_turn_length")
        exceeded("writes turns of more tokens", [max(of, default=0) for of in written], turn, keys)
    replies = [max((len(_ids(tokenizer, said)) for said in game.said[1:]), default=0) for game in solved]
    keys = ("environment", "max_reply_length")
    exceeded("gets replies of more tokens", replies, section.max_reply_length, keys)
    return found


def _fitting(tried: _Tried, schemas: list[dict], games: list[Game]) -> list[Finding]:
    """Whether prompts, with the tools and what the environment says at the start, and episodes fit in the context."""
    seen, section = tried.seen, tried.section
    if seen.tokenizer is None or seen.prompt is None or seen.rollout is None:
        return []
    context = min(seen.rollout.max_model_length or sys.maxsize, seen.tokenizer.model_max_length)
    begin, own = beginning(seen.tokenizer, schemas, **seen.prompt.model_dump()), seen.rollout.max_completion_length
    prompt = max(len(begin(row, game.said[0])) for row, game in zip(tried.rows, games))
    if prompt >= context:
        what = f"a prompt with its tools has {prompt:,} tokens, and the context {context:,}, so that no turn is left"
        fix = "use fewer tools, a shorter prompt, or another model"
        return [Finding("error", "environment", what, fix, ("prompt", "template"))]
    replies = [len(_ids(seen.tokenizer, text)) for game in games for text in game.said[1:]]
    seen_ones = section.model_copy(update={"max_reply_length": min(section.max_reply_length, max(replies, default=0))})
    if (most := longest(seen_ones, prompt, own)) > context:
        what = f"an episode may have {most:,} tokens with replies as seen, and ends at the {context:,} of the context"
        fix = f"lower rollout.max_completion_length ({own}) or environment.max_turns ({section.max_turns})"
        return [Finding("warning", "environment", what, fix, ("environment",))]
    return []


def _tokens(tokenizer: "PreTrainedTokenizerBase", game: Game) -> list[int]:
    """The tokens of each turn of the gold player, with its end."""
    style, found = calls.style_of(tokenizer), []
    for turn in game.info.get("solved", ()):
        text = "\n".join([turn["text"], *(calls.written(Call(**call), style) for call in turn["calls"])])
        found.append(len(_ids(tokenizer, text.strip())) + 1)
    return found


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
