"""Knights and Knaves, the puzzle family of Logic-RL: a seeded generator with proven unique solutions.

Grammar, wording and answer format follow Logic-RL (arXiv:2502.14768) and the generator it uses (arXiv:2410.23123). A
puzzle is a tuple of statements, one per person. A statement is `("telling-truth", i)`, `("lying", i)`, `("not", s)`,
`("and", s, s)`, `("or", s, s)`, `("->", s, s)` or `("<=>", s, s)`, where each inner `s` names one person.

Truth tables are bit masks: with `n` people there are `2**n` worlds, world `w` makes person `i` a knight if bit `i` of
`w` is set, and a statement is the integer whose bit `w` says whether it holds in world `w`. A puzzle has exactly one
solution if the conjunction over people of "knight if and only if the statement holds" has exactly one bit.
"""

import hashlib
import random
from collections.abc import Callable
from functools import lru_cache

from r1lab.data.kk_solutions import claim, deduction, evaluation
from r1lab.errors import UserError

NAMES = (
    "Abigail Aiden Alexander Amelia Aria Aurora Ava Avery Benjamin Charlotte Chloe Daniel David Elizabeth Ella Emily "
    "Emma Ethan Evelyn Grace Harper Henry Isabella Jack Jackson Jacob James Joseph Liam Lily Logan Lucas Luke Mason "
    "Matthew Mia Michael Noah Oliver Olivia Owen Penelope Riley Samuel Scarlett Sebastian Sofia Sophia Victoria "
    "William Zoey"
).split()

SAYINGS = (
    "{name} said that {claim}.",
    "{name} told you that {claim}.",
    "{name} expressed that {claim}.",
    '{name} said, "{claim}."',
    '{name} stated, "{claim}".',
    '{name} noted, "{claim}".',
    '{name} remarked, "{claim}".',
    '{name} commented, "{claim}".',
    '{name} asserted: "{claim}".',
    '{name} was heard saying, "{claim}".',
    'According to {name}, "{claim}".',
    'As {name} put it, "{claim}".',
    'In {name}\'s words: "{claim}".',
    'In a statement by {name}: "{claim}".',
    '"{claim}" - {name}.',
    '"{claim}," {name} claimed.',
    '"{claim}," {name} declared.',
    '"{claim}," {name} mentioned.',
)

OPENING = (
    "A very special island is inhabited only by knights and knaves. "
    "Knights always tell the truth, and knaves always lie. "
)
QUESTION = "So who is a knight and who is a knave?"
SOLUTIONS = {"deduction": deduction, "evaluation": evaluation}
PATIENCE = 50_000  # samples in a row without a new puzzle, after which the grammar is considered exhausted


def knights_knaves(
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    people: int | list[int] | tuple[int, ...] | dict[int, int] = (2, 3),
    copies: int = 1,
    names: int = len(NAMES),
    sayings: int = len(SAYINGS),
    solution: str | None = None,
) -> list[dict]:
    """Knights and Knaves puzzles, each with exactly one solution, in Logic-RL's wording.

    Train and test puzzles are disjoint up to renaming and reordering the people: the split is a hash of the puzzle's
    canonical form (one form in five is for testing), the same for every seed.

    Args:
        split: `"train"` or `"test"`.
        size: The total number of puzzles. Default: 1,000.
        seed: The same seed gives the same puzzles; a smaller `size` gives the first of them for each number of people.
        people: The number of people of a puzzle: a number, a list of numbers (in equal shares), or a map from number
            to share, such as `{2: 1, 3: 4}`.
        copies: How often the same statements may recur with other names and wordings.
        names: The number of first names to sample from; fewer are easier for a small model.
        sayings: The number of ways to introduce a statement; the first is the plain `Zoey said that ...`.
        solution: None, `"deduction"` (assume, contradiction, backtrack) or `"evaluation"` (each statement evaluated in
            each world): adds a `completion` column with a worked solution, for SFT.

    Returns:
        Rows with `prompt`, `answer` (`(1) Zoey is a knight\\n(2) ...`), `task` (`knights_knaves/2ppl`), `names`,
            `statements` (as text), and `completion` if `solution` is set, shuffled.

    Raises:
        UserError: The grammar has fewer puzzles than `size`.

    >>> row = knights_knaves(people=2, size=1, seed=0)[0]
    >>> row["task"]
    'knights_knaves/2ppl'
    >>> row["prompt"].endswith("So who is a knight and who is a knave?")
    True
    """
    if solution not in (None, *SOLUTIONS):
        raise UserError(f"knights_knaves: solution: {solution!r} is not one of {', '.join(SOLUTIONS)}, null")
    rows = []
    for n, count in _counts(people, size).items():
        rng = _rng(seed, split, n)
        for statements, answer in generate(n, count, split=split, rng=rng, copies=copies):
            called = draw_names(rng, n, names)
            row = {
                "prompt": quiz(statements, called, rng, sayings),
                "answer": answer_text(answer, called),
                "task": f"knights_knaves/{n}ppl",
                "names": called,
                "statements": repr(statements),
            }
            if solution:
                row["completion"] = complete(SOLUTIONS[solution](statements, called), row["answer"])
            rows.append(row)
    random.Random(f"{seed}/{split}/order").shuffle(rows)
    return rows


def generate(n: int, count: int, *, split: str, rng: random.Random, copies: int = 1):
    """Samples `count` puzzles of `n` people for one split.

    Yields:
        `(statements, solution)`: the statement tuple and a tuple of `n` booleans, True for a knight.

    Raises:
        UserError: The grammar has fewer than `count` different puzzles (times `copies`) of this size in this split.
    """
    if split not in ("train", "test"):
        raise UserError(f"knights_knaves: split: {split!r} is not train or test")
    if n < 2:
        raise UserError(f"knights_knaves: people: {n}: a puzzle needs at least 2 people")
    seen: dict[tuple, int] = {}
    found = dry = 0
    while found < count:
        if dry > PATIENCE:
            raise UserError(
                f"knights_knaves: {n} people, {split}: {count} puzzles asked for, but the grammar gives only {found}"
                f" with copies: {copies}; lower size (eval.size in an evaluation), give {n} people a smaller share"
                f" (people: {{{n}: 1, {n + 1}: 9}}), or raise copies (same statements, other names and wordings)"
            )
        dry += 1
        puzzle, worlds = drawn(n, rng.random)
        if not worlds or worlds & (worlds - 1):
            continue
        if seen.get(puzzle, 0) >= copies or split_of(puzzle) != split:
            continue
        seen[puzzle] = seen.get(puzzle, 0) + 1
        found += 1
        dry = 0
        world = worlds.bit_length() - 1
        yield puzzle, tuple(bool(world >> i & 1) for i in range(n))


def drawn(n: int, rand: Callable[[], float]) -> tuple[tuple, int]:
    """Draws the statements of `n` people, one after another, until no world is left.

    Args:
        rand: Returns a number from 0 to 1.

    Returns:
        The statements, fewer than `n` if they contradict each other, and the mask of the worlds that they leave.
    """
    leaves, nots, full, knight = _tables(n)
    statements, worlds = [], full
    for i in range(n):
        die = int(rand() * 6)
        if die == 0:
            options = leaves[i]
            statement, mask = options[int(rand() * len(options))]
        elif die == 1:
            options = nots[i]
            statement, mask = options[int(rand() * len(options))]
        else:
            options = leaves[i]
            k = len(options)
            first = int(rand() * k)
            second = (first + 1 + int(rand() * (k - 1))) % k  # another leaf, uniformly
            (a, x), (b, y) = options[first], options[second]
            if die == 2:
                statement, mask = ("and", a, b), x & y
            elif die == 3:
                statement, mask = ("or", a, b), x | y
            elif die == 4:
                statement, mask = ("->", a, b), full ^ x | y
            else:
                statement, mask = ("<=>", a, b), full ^ x ^ y
        worlds &= full ^ knight[i] ^ mask
        if not worlds:
            break
        statements.append(statement)
    return tuple(statements), worlds


@lru_cache(maxsize=16)
def _tables(n: int):
    """Leaf statements with their masks, by speaker: nobody says "I am a knave", as in the published generator."""
    full = (1 << (1 << n)) - 1
    knight = []
    for i in range(n):
        block = ((1 << (1 << i)) - 1) << (1 << i)  # 2**i zeros, then 2**i ones, repeated over all worlds
        mask, width = block, 2 << i
        while width < 1 << n:
            mask |= mask << width
            width *= 2
        knight.append(mask)
    leaves, nots = [], []
    for i in range(n):
        true = [(("telling-truth", j), knight[j]) for j in range(n)]
        false = [(("lying", j), full ^ knight[j]) for j in range(n) if j != i]
        leaves.append(true + false)
        nots.append([(("not", s), full ^ mask) for s, mask in true + false if s[1] != i])
    return leaves, nots, full, knight


def solve(statements: tuple) -> list[tuple[bool, ...]]:
    """All solutions of a puzzle, each a tuple of booleans, True for a knight.

    >>> solve((("lying", 1), ("and", ("lying", 0), ("telling-truth", 1))))
    [(False, True), (True, False)]
    """
    n = len(statements)
    _, _, full, knight = _tables(n)
    worlds = full
    for i, statement in enumerate(statements):
        worlds &= full ^ knight[i] ^ _mask(statement, full, knight)
    found = []
    while worlds:
        world = (worlds & -worlds).bit_length() - 1
        found.append(tuple(bool(world >> i & 1) for i in range(n)))
        worlds &= worlds - 1
    return sorted(found)


def _mask(statement: tuple, full: int, knight: list[int]) -> int:
    kind = statement[0]
    if kind == "telling-truth":
        return knight[statement[1]]
    if kind == "lying":
        return full ^ knight[statement[1]]
    parts = [_mask(s, full, knight) for s in statement[1:]]
    if kind == "not":
        return full ^ parts[0]
    x, y = parts
    return {"and": x & y, "or": x | y, "->": full ^ x | y, "<=>": full ^ x ^ y}[kind]


def split_of(statements: tuple) -> str:
    """The split of a puzzle: a hash of its canonical form, so renamed or reordered twins share it."""
    digest = hashlib.blake2b(repr(canonical(statements)).encode(), digest_size=4).digest()
    return "test" if int.from_bytes(digest) % 5 == 0 else "train"


def canonical(statements: tuple) -> tuple:
    """The same tuple for all puzzles that differ only in the names or the order of people, or of `and`, `or`, `<=>`.

    It is color refinement with individualization (McKay, Practical Graph Isomorphism, 1981): people get colors from
    their statements about each other until no more people can be distinguished; ties are broken in every way and the
    smallest result is used. "Not a knight" counts as "a knave".

    >>> a = (("telling-truth", 1), ("and", ("lying", 0), ("lying", 1)))
    >>> b = (("and", ("lying", 0), ("lying", 1)), ("telling-truth", 0))
    >>> canonical(a) == canonical(b)
    True
    """
    parts = [_flat(s) for s in statements]
    return _least(parts, _refine(parts, [0] * len(parts)))


def _flat(statement: tuple) -> tuple:
    """`(joiner, ((positive, person), ...))`, with "not" folded into the leaf."""
    kind = statement[0]
    if kind in ("telling-truth", "lying"):
        return ("", ((kind == "telling-truth", statement[1]),))
    if kind == "not":
        _, ((positive, person),) = _flat(statement[1])
        return ("", ((not positive, person),))
    return (kind, tuple(leaf for s in statement[1:] for leaf in _flat(s)[1]))


def _colored(part: tuple, colors: list[int], me: int) -> tuple:
    joiner, leaves = part
    seen = [(positive, colors[who], who == me) for positive, who in leaves]
    return (joiner, *(seen if joiner == "->" else sorted(seen)))


def _refine(parts: list[tuple], colors: list[int]) -> list[int]:
    while True:
        signs = [(colors[i], _colored(part, colors, i)) for i, part in enumerate(parts)]
        about: list[list] = [[] for _ in parts]
        for i, (joiner, leaves) in enumerate(parts):
            for place, (positive, who) in enumerate(leaves):
                about[who].append((colors[i], joiner, place if joiner == "->" else 0, positive))
        keys = [(sign, tuple(sorted(a))) for sign, a in zip(signs, about)]
        rank = {key: r for r, key in enumerate(sorted(set(keys)))}
        refined = [rank[key] for key in keys]
        if len(rank) == len(set(colors)):
            return refined
        colors = refined


def _least(parts: list[tuple], colors: list[int]) -> tuple:
    n = len(parts)
    if len(set(colors)) == n:
        order = sorted(range(n), key=colors.__getitem__)
        return tuple(_colored(parts[i], colors, i) for i in order)
    tied = min(c for c in set(colors) if colors.count(c) > 1)
    branches = []
    for i in range(n):
        if colors[i] == tied:
            marked = [2 * c + (c == tied and j != i) for j, c in enumerate(colors)]
            branches.append(_least(parts, _refine(parts, marked)))
    return min(branches)


def quiz(statements: tuple, names: list[str], rng: random.Random, sayings: int = len(SAYINGS)) -> str:
    """The puzzle's text: the island, the people, what each says, and the question."""
    said = (
        rng.choice(SAYINGS[:sayings]).format(name=name, claim=claim(statement, names))
        for name, statement in zip(names, statements)
    )
    listed = ", ".join(names[:-1]) + f", and {names[-1]}"
    return f"{OPENING}You meet {len(names)} inhabitants: {listed}. {' '.join(said)} {QUESTION}"


def answer_text(solution, names: list[str]) -> str:
    """Logic-RL's gold text.

    >>> print(answer_text((True, False), ["Zoey", "Luke"]))
    (1) Zoey is a knight
    (2) Luke is a knave
    """
    return "\n".join(
        f"({i}) {name} is a {'knight' if knight else 'knave'}"
        for i, (name, knight) in enumerate(zip(names, solution), 1)
    )


def complete(thinking: str, answer: str) -> str:
    """A response: the thinking and the answer in their tags."""
    return f"<think> {thinking} </think>\n<answer> {answer} </answer>"


def _counts(people, size: int | None) -> dict[int, int]:
    shares = people if isinstance(people, dict) else dict.fromkeys([people] if isinstance(people, int) else people, 1)
    size = 1000 if size is None else size
    total = sum(shares.values())
    if total <= 0 or min(shares.values()) < 0:
        raise UserError(f"knights_knaves: people: {people!r}: the shares must be positive, such as {{2: 1, 3: 4}}")
    counts, given, seen = {}, 0, 0
    for n, share in shares.items():  # rounding the running sum, so that the counts add up to size
        seen += share
        counts[int(n)] = round(size * seen / total) - given
        given += counts[int(n)]
    return counts


def _rng(seed: int, split: str, n: int) -> random.Random:
    return random.Random(f"knights_knaves/{seed}/{split}/{n}")


def draw_names(rng: random.Random, n: int, names: int = len(NAMES)) -> list[str]:
    """`n` different names out of the first `names`; `Zoey2`, `Luke3`, ... if there are more people than names.

    >>> len(set(draw_names(random.Random(0), 120)))
    120
    """
    pool = NAMES[:names]
    if n > len(pool):
        pool = [f"{name}{k}" if k > 1 else name for k in range(1, n // len(pool) + 2) for name in pool]
    return rng.sample(pool, n)
