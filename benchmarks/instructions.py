"""What answers that met their constraint were worth: python benchmarks/instructions.py runs/A runs/B ...

For runs of recipes/real/smollm2-instructions.yaml. The checker of a constraint does not see whether an answer is about
what was asked. Counts, for the sampled answers of the trained kinds in each evaluation: correct; on topic (the answer
has the word that the request is about); both, with the paired difference and its 95 % interval; correct answers that
are about the constraint ("The words candle and kettle ..."); and correct answers of fewer than eight words outside of
brackets. Prints Markdown.
"""

import re
import sys
from pathlib import Path

from r1lab.data.instructions_text import topic_of
from r1lab.evaluation import stats
from r1lab.rewards.prose import words
from r1lab.rundir import storage
from r1lab.text import percent

TASK = "trained_kinds"
BRACKETS = re.compile(r"\[[^\]]*\]|<<.*?>>", re.DOTALL)
ABOUT_THE_CONSTRAINT = re.compile(r"\bthe words?\b", re.IGNORECASE)
COUNTED = {
    "correct": lambda right, on_topic, text: right,
    "on topic": lambda right, on_topic, text: on_topic,
    "correct and on topic": lambda right, on_topic, text: right and on_topic,
    "correct, has 'the word' or 'the words'": lambda right, on_topic, text: (
        right and ABOUT_THE_CONSTRAINT.search(text) is not None
    ),
    "correct, under 8 words outside of brackets": lambda right, on_topic, text: (
        right and len(words(BRACKETS.sub(" ", text))) < 8
    ),
}


def shares(folder: Path) -> dict[str, dict[int, float]]:
    """For each of `COUNTED` the share of the answers to each question, by the question's number."""
    found: dict[str, dict[int, float]] = {name: {} for name in COUNTED}
    for row in storage.read_jsonl(folder / "samples" / "questions.jsonl"):
        if row["task"] != TASK:
            continue
        topic = topic_of(row["prompt"]).lower()
        stem = topic.removesuffix("s")
        answers = [(score > 0, stem in text.lower(), text) for text, score in zip(row["completions"], row["scores"])]
        for name, counts in COUNTED.items():
            found[name][row["index"]] = sum(map(bool, (counts(*answer) for answer in answers))) / len(answers)
    return found


def main(runs: list[Path]) -> None:
    """Prints a row for each figure, with a column for each run."""
    tables = [{name: shares(next(run.glob(f"[0-9]*-{name}"))) for name in ("base", "after")} for run in runs]
    print(f"| share of the answers | {' | '.join(run.name for run in runs)} |\n|---|{'---|' * len(runs)}")
    for name in COUNTED:
        print(f"| {name} | {' | '.join(cell(table, name) for table in tables)} |")


def cell(table: dict, name: str) -> str:
    """The share before and after, and the paired difference."""
    before, after = (list(table[stage][name].values()) for stage in ("base", "after"))
    diff, ci95 = stats.paired_diff(before, after)
    return f"{mean(before):.1%} → {mean(after):.1%}: {percent(diff, ci95, signed=True)}"


def mean(values: list[float]) -> float:
    """The mean over questions."""
    return sum(values) / len(values)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("instructions: name runs of real/smollm2-instructions: python benchmarks/instructions.py runs/A")
    main([Path(word) for word in sys.argv[1:]])
