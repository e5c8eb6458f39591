"""Runs a recipe of environments on several seeds and prints its tables as Markdown (those of benchmarks/seeds.py):

    python benchmarks/environments.py environments/desk --seeds 0 1 2
    python benchmarks/environments.py environments/number_guess --seeds 0 1 2

A run that is finished is not run again. For the environment `number_guess`, a further table says how the model plays:
the share of the guesses that the replies so far allow, and of these the share in the middle of what is left. Its last
row is a player who guesses any number of what is left, in 100 games for each row of the first evaluation.
"""

import argparse
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import seeds

from r1lab.environments import NumberGuess, Turn
from r1lab.rundir import directory, storage

MIDDLE = 0.2
"""A guess is in the middle if, of the numbers that are left, the share below it differs from that above it by less."""


def run(recipe: str, seed: int, runs_dir: str, overrides: list[str]) -> Path:
    """The folder of a finished run of a seed; what is missing of it is run."""
    folder = Path(runs_dir) / f"{Path(recipe).stem}-{seed}"
    if not (folder.is_dir() and directory.result(folder)):
        command = [sys.executable, "-m", "r1lab", "run", recipe, f"seed={seed}", *overrides, "--no-check", "--resume"]
        done = subprocess.run([*command, "--name", folder.name, "--runs-dir", runs_dir], stdout=sys.stderr)
        if done.returncode:
            raise SystemExit(f"seed {seed}: the run ended with exit status {done.returncode}")
    return folder


def play(prompt: str, turns: list[dict]) -> Counter:
    """Counts, in an episode of number_guess, `guesses`, those `inside` what is left, and of these the `middle` ones.

    Guesses with fewer than three numbers left are not counted: each of them is in the middle.

    >>> said = [{"own": True, "text": "<answer> 5 </answer>"}, {"own": False, "text": "lower"}]
    >>> dict(play("from 1 to 9", [*said, {"own": True, "text": "<answer> 7 </answer>"}]))
    {'guesses': 2, 'inside': 1, 'middle': 1}
    """
    low, high = bounds(prompt)
    found, guess = Counter(), None
    for turn in turns:
        if not turn["own"]:
            if guess is not None and "higher" in turn["text"]:
                low = max(low, guess + 1)
            elif guess is not None and "lower" in turn["text"]:
                high = min(high, guess - 1)
            continue
        numbers = re.findall(r"\d+", turn["text"].rpartition("<answer>")[2])
        guess = int(numbers[-1]) if numbers else None
        if high - low < 2:
            continue
        inside = guess is not None and low <= guess <= high
        middle = inside and abs(2 * guess - low - high) <= MIDDLE * (high - low)
        found.update(guesses=1, inside=inside, middle=middle)
    return found


def shares(folder: Path) -> str:
    """The cell of a run's evaluation."""
    total = Counter()
    for row in storage.read_jsonl(folder / "samples" / "questions.jsonl"):
        for episode in row["episodes"]:
            total += play(str(row["prompt"]), episode["turns"])
    return cell(total)


def cell(total: Counter) -> str:
    """The share of guesses inside what is left, and that of these in its middle."""
    return f"{total['inside'] / total['guesses']:.1%}, {total['middle'] / total['inside']:.1%}"


def careful(folder: Path, games: int = 100) -> str:
    """The cell of a player who guesses any number of what is left, and the share of its games that it wins."""
    rng, total, won, played = random.Random(0), Counter(), 0.0, 0
    for row in storage.read_jsonl(folder / "samples" / "questions.jsonl"):
        low, high = bounds(str(row["prompt"]))
        for seed in range(games):
            game, turns, done = NumberGuess(), [], False
            game.reset(seed=seed, low=low, high=high)
            while not done:
                text = f"<answer> {rng.randint(game.low, game.high)} </answer>"
                reply = game.step(Turn(text, [], len(turns) // 2 + 1))
                turns += [{"own": True, "text": text}, {"own": False, "text": reply.content}]
                done = reply.done
            total += play(str(row["prompt"]), turns)
            won, played = won + game.get_reward(), played + 1
    return f"{cell(total)}; finds {won / played:.1%}"


def bounds(prompt: str) -> tuple[int, int]:
    """The bounds that a prompt names."""
    found = re.search(r"from (\d+) to (\d+)", prompt)
    return int(found[1]), int(found[2])


def main() -> None:
    """Runs, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs-dir", default="runs/environments")
    parser.add_argument("overrides", nargs="*", help="key=value, merged over the recipe")
    given = parser.parse_intermixed_args()
    runs = [run(given.recipe, seed, given.runs_dir, given.overrides) for seed in given.seeds]
    seeds.main(runs, [])
    if "number_guess" in given.recipe:
        evaluations = [name for name, stage in directory.result(runs[0])["stages"].items() if "tasks" in stage]
        print(f"\n| inside, middle of these | {' | '.join(run.name for run in runs)} |\n|---|{'---|' * len(runs)}")
        for name in evaluations:
            cells = [shares(next(run.glob(f"[0-9]*-{name}"))) for run in runs]
            print(f"| {name} | {' | '.join(cells)} |")
        found = careful(next(runs[0].glob(f"[0-9]*-{evaluations[0]}")))
        print(f"| anything that is left | {found} |{' |' * (len(runs) - 1)}")


if __name__ == "__main__":
    main()
