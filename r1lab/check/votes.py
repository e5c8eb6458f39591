"""Tries rewards by majority vote, which see no gold answer, on groups of responses that have fooled graders before."""

from collections import Counter

from r1lab.check.exploits import Exploit
from r1lab.check.seen import Seen
from r1lab.findings import Finding
from r1lab.grading.grader import Grader
from r1lab.rewards.facts import facts

GROUP = 4


def by_vote(grader: Grader) -> list[str]:
    """The rewards whose reference is the majority of the group."""
    known = {name: facts(function) for name, function in zip(grader.names, grader.functions)}
    return [name for name, of in known.items() if of and of.compares and of.looks_for == "answer"]


def findings(
    seen: Seen, grader: Grader, places: list[int], tried: list[tuple[int, Exploit]], right: dict[int, str]
) -> list[Finding]:
    """What a policy earns that always gives the same response, and what it earns among correct responses.

    Args:
        places: The places of the rewards in the recipe.
        tried: Rows, by number, with exploits.
        right: A correct response to each row that has one, by number.
    """
    names = by_vote(grader)
    if not names:
        return []
    alone = [[exploit.text] * GROUP for _, exploit in tried]
    mixed = [[exploit.text] + [right[i]] * (GROUP - 1) for i, exploit in tried if i in right]
    of_alone = _values(seen, grader, [i for i, _ in tried], alone)
    of_mixed = _values(seen, grader, [i for i, _ in tried if i in right], mixed)
    found = []
    for name in names:
        keys = ("rewards", places[grader.names.index(name)])
        earns = Counter(e.name for (_, e), value in zip(tried, of_alone[name]) if (value or 0) >= 1)
        kinds = {e.name for _, e in tried}
        if earns:
            shown = ", ".join(kind for kind, _ in earns.most_common(3))
            what = f"{name}: no gold answer is read: a group that always gives the same answer earns 1, right or "
            what += f"wrong, as do {len(earns)} of {len(kinds)} types of exploits ({shown})"
            fix = "compare evaluations by gold answers before and after, and watch majority_right and entropy"
            found.append(Finding("warning", "rewards", what, fix, keys))
        among = [exploit for i, exploit in tried if i in right]
        fooled = Counter(e.name for e, value in zip(among, of_mixed[name]) if (value or 0) >= 1 and e.always_wrong)
        if fooled:
            what = f"{name}: these score 1 in a group of correct answers: {', '.join(fooled)}"
            found.append(Finding("error", "rewards", what, "fix the reward, because a policy will exploit it", keys))
        elif among:
            what = (
                f"{name}: in a group of correct answers, {len({e.name for e in among})} types of exploits score below"
            )
            found.append(Finding("ok", "rewards", f"{what} a correct answer", keys=keys))
    return found


def _values(seen: Seen, grader: Grader, numbers: list[int], groups: list[list[str]]) -> dict[str, list]:
    """For each reward the value of the first response of each group."""
    texts, rows = [text for group in groups for text in group], [seen.rows[i] for i in numbers for _ in range(GROUP)]
    ids = [list(range(len(text.split()))) for text in texts]
    graded = grader.grade(texts, rows, ids, groups=[i for i in range(len(groups)) for _ in range(GROUP)])
    return {name: values[::GROUP] for name, values in graded.values.items()}
