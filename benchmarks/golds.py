r"""Gold answers of MATH, GSM8K and MATH-500 as models write them: `python -m benchmarks.golds --data FOLDER`.

Each gold answer is written in twenty responses, in forms in which models give an answer. `accuracy` and plain
math-verify (its parser on the gold answer as it is, and in dollar signs) grade all of them, and `accuracy` also grades
the same responses with a digit of the answer changed, which it must reject. In the output, `turns` are responses,
`missed` lists the gold answers whose responses math-verify accepts and `accuracy` does not, and `accepted` the gold
answers whose changed responses `accuracy` accepts. Prints JSON.
"""

import argparse
import json
import logging
import random
import re
import time
from pathlib import Path

from r1lab.rewards import accuracy_reward

SETS = {"math": "rllm_math/train_math.json", "gsm8k": "gsm8k/test.jsonl", "math500": "math500/test.jsonl"}
_INTEGER = re.compile(r"\d{4,}")

FORMS = {
    "boxed": lambda g: rf"So \boxed{{{g}}}",
    "boxed in dollars": lambda g: rf"Therefore, the answer is $\boxed{{{g}}}$.",
    "boxed with blanks": lambda g: rf"\[ \boxed{{ {g}\ }} \]",
    "boxed with a full stop": lambda g: rf"We find that it is $\boxed{{{g}.}}$",
    "boxed under a heading": lambda g: f"**Final Answer**\n\n$$\n\\boxed{{{g}}}\n$$\n",
    "corrected": lambda g: rf"\boxed{{1000003}}. Wait, that is wrong. It should be \boxed{{{g}}}.",
    "tags": lambda g: f"<answer> {g} </answer>",
    "formula in a sentence": lambda g: f"The answer is ${g}$.",
    "plain in a sentence": lambda g: f"The answer is {g}.",
    "trailing text": lambda g: f"The final answer is ${g}$. I hope that this explanation helps you.",
    "display": lambda g: f"So the final answer is:\n\n$$\n{g}\n$$",
    "hashes": lambda g: f"We add them up.\n#### {g}",
    "label": lambda g: f"Answer: {g}",
    "last line": lambda g: f"We add them up.\nA: ${g}$",
    "result": lambda g: f"The result is ${g}$.",
    "Chinese": lambda g: f"因此，答案是 ${g}$。",
    "bold": lambda g: f"After all that we obtain **${g}$**",
    "code": lambda g: f"Answer: `{g}`",
    "other fractions and brackets": lambda g: rf"\boxed{{{_restyled(g)}}}",
    "a variable, a unit or separators": lambda g: rf"\boxed{{{_decorated(g)}}}",
}


def _restyled(gold: str) -> str:
    gold = gold.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace(r"\frac", r"\dfrac")
    gold = gold.replace(r"\left", "").replace(r"\right", "")
    return re.sub(r"(?<!\\)\(", r"\\left(", re.sub(r"(?<!\\)\)", r"\\right)", gold)) if "(" in gold else gold


def _decorated(gold: str) -> str:
    if _INTEGER.fullmatch(gold):
        return f"{int(gold):,}".replace(",", "{,}")
    if re.fullmatch(r"\d+", gold):
        return rf"{gold} \text{{ cm}}"
    return f"x = {gold}" if re.fullmatch(r"-?\d*\\frac\{\d+\}\{\d+\}|-?[\d.]+", gold) else gold


def golds(data: Path, name: str, size: int, seed: int) -> list[str]:
    """Distinct gold answers of a data set, sampled at random."""
    path = data / SETS[name]
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    answers = [str(row["answer"]).rpartition("####")[2].strip() for row in rows]
    distinct = sorted({answer.replace(",", "") if name == "gsm8k" else answer for answer in answers if answer})
    return random.Random(seed).sample(distinct, min(size, len(distinct)))


def changed(gold: str) -> str | None:
    """A gold answer with its last digit changed; None if it has no digit."""
    place = next((i for i in range(len(gold) - 1, -1, -1) if gold[i] in "0123456789"), None)
    return None if place is None else gold[:place] + str((int(gold[place]) + 3) % 10) + gold[place + 1 :]


def math_verify(turn: str, gold: str, wrapped: bool) -> bool:
    """The verdict of plain math-verify."""
    from math_verify import parse, verify

    return verify(parse(f"${gold}$" if wrapped else gold), parse(turn))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"a folder with {', '.join(SETS.values())}")
    parser.add_argument("--size", type=int, default=40, help="gold answers per data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--deadline", type=float, default=60.0, help="seconds for one verdict; large, for busy machines"
    )
    args = parser.parse_args()
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    started, report = time.monotonic(), {"golds": 0, "sets": {}, "forms": {}, "missed": {}, "accepted": {}}
    for name in SETS:
        chosen = golds(args.data, name, args.size, args.seed)
        report["golds"] += len(chosen)
        asked = [(form, write(gold), gold) for gold in chosen for form, write in FORMS.items()]
        controls = [
            (form, write(other), gold) for gold in chosen if (other := changed(gold)) for form, write in FORMS.items()
        ]
        counts = dict.fromkeys(("accuracy", "raw", "wrapped"), 0)
        verdicts = _accuracy(asked, args.deadline)
        for (form, turn, gold), right in zip(asked, verdicts):
            raw, wrapped = (math_verify(turn, gold, wrapped) for wrapped in (False, True))
            of_form = report["forms"].setdefault(form, {"turns": 0, **dict.fromkeys(counts, 0)})
            of_form["turns"] += 1
            for key, verdict in (("accuracy", right), ("raw", raw), ("wrapped", wrapped)):
                counts[key] += verdict
                of_form[key] += verdict
            if (raw or wrapped) and not right:
                _note(report["missed"], form, turn, gold)
        refused = [not right for right in _accuracy(controls, args.deadline)]
        for (form, turn, gold), no in zip(controls, refused):
            if not no:
                _note(report["accepted"], form, turn, gold)
        report["sets"][name] = {"turns": len(asked), **counts, "controls": len(controls), "refused": sum(refused)}
    report["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(report, indent=1, ensure_ascii=False))


def _note(noted: dict[str, dict], form: str, turn: str, gold: str) -> None:
    noted.setdefault(gold, {"first": turn, "forms": []})["forms"].append(form)


def _accuracy(asked: list[tuple[str, str, str]], deadline: float) -> list[bool]:
    scores = accuracy_reward([turn for _, turn, _ in asked], answer=[gold for *_, gold in asked], deadline=deadline)
    return [score == 1.0 for score in scores]


if __name__ == "__main__":
    main()
