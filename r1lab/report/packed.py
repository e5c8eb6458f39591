"""Completions for the page, compressed in blocks that it unpacks when it shows them."""

import base64
import json
import zlib
from collections import Counter

from r1lab.episodes.record import ENDS
from r1lab.report.samples import FLAGS, SampledCompletion

BLOCK = 200  # completions per block
LONGEST = 20_000  # characters of a text; longer ones lose their middle
TURNS, CALL = 200, 500  # turns and replies of an episode, or calls of a turn; characters of a call or an error
HEADS = 100  # the most frequent types of reasons, which the page can filter by


def pack(completions: dict[str, list[SampledCompletion]], room: int) -> tuple[str, list[str], int]:
    """An index and blocks of texts, each base64 of deflated JSON.

    Args:
        completions: By the label of their stage.
        room: The maximum number of characters; if all completions need more, an even sample of each stage is kept.

    Returns:
        The index, the blocks, and the number of completions in them.
    """
    share = 1.0
    while True:
        some = {stage: _spread(own, share) for stage, own in completions.items()}
        rows = [(place, c) for place, own in enumerate(some.values()) for c in own]
        blocks = [_packed([_text(c) for _, c in rows[i : i + BLOCK]]) for i in range(0, len(rows), BLOCK)]
        index = _packed(_index(list(some), rows))
        size = len(index) + sum(map(len, blocks))
        if size <= room or not rows:
            return index, blocks, len(rows)
        share *= 0.95 * room / size


def _spread(completions: list, share: float) -> list:
    """A share of a list, evenly spread over it."""
    kept = int(len(completions) * share)
    return completions if share >= 1 else [completions[int(i / share)] for i in range(kept)]


def _index(stages: list[str], rows: list[tuple[int, SampledCompletion]]) -> dict:
    names = ("tasks", "prompts", "answers", "names", "reasons", "ends", "sayings")
    tables: dict[str, dict[str, int]] = {name: {} for name in names}

    def place(table: str, text: str) -> int:
        return tables[table].setdefault(text, len(tables[table]))

    columns = {
        "stage": [stage for stage, _ in rows],
        "step": [c.step for _, c in rows],
        "task": [place("tasks", c.task) for _, c in rows],
        "prompt": [place("prompts", _shortened(c.prompt)) for _, c in rows],
        "answer": [place("answers", _shortened(c.answer)) for _, c in rows],
        "reward": [c.reward for _, c in rows],
        "correct": [-1 if c.correct is None else int(c.correct) for _, c in rows],
        "length": [c.length for _, c in rows],
        "tokens": [int(c.tokens is not None) for _, c in rows],
        "flagged": [sum(1 << i for i, flag in enumerate(FLAGS) if flag in c.flags) for _, c in rows],
        "end": [place("ends", c.end) if c.end else -1 for _, c in rows],
        # The reward `environment` has the same reason.
        "said": [-1 if c.said in ("", *c.reasons.values()) else place("sayings", c.said[:CALL]) for _, c in rows],
        **{key: [c.counts[key] for _, c in rows] for key in ("turns", "calls", "errors")},
        "rewards": [
            [
                [place("names", name), value, place("reasons", c.reasons[name]) if name in c.reasons else -1]
                for name, value in c.rewards.items()
            ]
            for _, c in rows
        ],
    }
    texts = {name: list(table) for name, table in tables.items()}
    # The page filters by the part of a reason before its colon: by "mixed" for "mixed: 0.75".
    heads = Counter(why.partition(":")[0] for _, c in rows for why in c.reasons.values())
    shown = [head for head, _ in heads.most_common(HEADS)]
    places = {head: place for place, head in enumerate(shown)}
    texts |= {"heads": shown, "head": [places.get(why.partition(":")[0], -1) for why in texts["reasons"]]}
    texts["endings"] = [ENDS.get(str(end), "") for end in texts["ends"]]
    return columns | texts | {"stages": stages, "flags": list(FLAGS.items()), "block": BLOCK}


def _text(completion: SampledCompletion) -> str | list:
    """The text of a completion; of an episode `[own, text, calls, error]` for each turn and reply."""
    if not completion.end:
        return _shortened(completion.text)
    some = completion.turns[:TURNS]
    return [[int(t.own), _shortened(t.text), [c[:CALL] for c in t.calls[:TURNS]], t.error[:CALL]] for t in some]


def _shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    left = len(text) - LONGEST
    return f"{text[: LONGEST // 2]}\n[… {left:,} characters left out …]\n{text[-LONGEST // 2 :]}"


def _packed(data: object) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()
