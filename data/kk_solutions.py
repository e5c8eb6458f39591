"""Knights-and-Knaves statements: their text, whether they hold, and worked solutions in two styles."""

import random

KIND = {True: "knight", False: "knave"}
WORD = {True: "true", False: "false"}
JOINERS = {"and": "{} and {}", "or": "{} or {}", "->": "If {} then {}", "<=>": "{} if and only if {}"}
JOIN = {"and": "and", "or": "or", "->": "then", "<=>": "iff"}


def holds(statement: tuple, world) -> bool:
    """Whether a statement holds in an assignment (a sequence of booleans, True for a knight)."""
    kind = statement[0]
    if kind == "telling-truth":
        return world[statement[1]]
    if kind == "lying":
        return not world[statement[1]]
    if kind == "not":
        return not holds(statement[1], world)
    x, y = (holds(s, world) for s in statement[1:])
    return {"and": x and y, "or": x or y, "->": not x or y, "<=>": x == y}[kind]


def claim(statement: tuple, names: list[str]) -> str:
    """A statement in Logic-RL's wording.

    >>> claim(("->", ("telling-truth", 0), ("lying", 1)), ["Zoey", "Luke"])
    'If Zoey is a knight then Luke is a knave'
    """
    kind = statement[0]
    if kind in ("telling-truth", "lying"):
        return f"{names[statement[1]]} is a {'knight' if kind == 'telling-truth' else 'knave'}"
    if kind == "not":
        return claim(statement[1], names).replace(" is a ", " is not a ")
    return JOINERS[kind].format(*(claim(s, names) for s in statement[1:]))


def deduction(statements: tuple, names: list[str]) -> str:
    """Assume, find a contradiction, backtrack: depth-first over the people in their order.

    >>> print(deduction((("lying", 1), ("telling-truth", 0)), ["Zoey", "Luke"]).splitlines()[0])
    Assume Zoey is a knight.
    """
    n = len(statements)
    lines: list[str] = []
    world: dict[int, bool] = {}

    def broken() -> int | None:
        for i, kind in world.items():
            value = _partial(statements[i], world)
            if value is not None and value != kind:
                return i
        return None

    def search(person: int) -> bool:
        if person == n:
            return True
        for kind in (True, False):
            world[person] = kind
            assumption = f"Assume {names[person]} is a {KIND[kind]}"
            i = broken()
            if i is None:
                lines.append(f"{assumption}.")
                if search(person + 1):
                    return True
            else:
                lines.append(
                    f"{assumption}: contradiction, {names[i]} is a {KIND[world[i]]} but would "
                    f"{'lie' if world[i] else 'tell the truth'} in saying that {claim(statements[i], names)}."
                )
            del world[person]
        if person:
            lines.append(f"{names[person]} can be neither, so go back to {names[person - 1]}.")
        return False

    if search(0):
        lines.append("Nothing contradicts.")
    return "\n".join(lines)


def _partial(statement: tuple, world: dict[int, bool]) -> bool | None:
    """Three-valued truth (Kleene) in a partial assignment: None if it is not yet decided."""
    kind = statement[0]
    if kind in ("telling-truth", "lying"):
        known = world.get(statement[1])
        return known if known is None or kind == "telling-truth" else not known
    parts = [_partial(s, world) for s in statement[1:]]
    if kind == "not":
        return None if parts[0] is None else not parts[0]
    x, y = parts
    if kind == "->":
        kind, x = "or", None if x is None else not x
    if kind == "<=>":
        return None if x is None or y is None else x == y
    decisive = kind == "or"  # one true part decides an "or", one false part decides an "and"
    if decisive in (x, y):
        return decisive
    return None if x is None or y is None else not decisive


def evaluation(statements: tuple, names: list[str]) -> str:
    """Evaluate one statement after another in one assignment after another, from all knights on, until one fits.

    Each line repeats the assignment that it is about, because a small model only attends to nearby text.

    >>> print(evaluation((("lying", 1), ("lying", 0)), ["Ava", "Mia"]))
    Ava knight, Mia knight: Ava says Mia knave false, clash.
    Ava knight, Mia knave: Ava says Mia knave true, fits.
    Ava knight, Mia knave: Mia says Ava knave false, fits.
    """
    return attempt(statements, names)[0]


def attempt(statements: tuple, names: list[str], *, mistake: float = 0.0, rng: random.Random | None = None):
    """`evaluation`, and the assignment that it ends with (possibly wrong, by a mistake), as a tuple of booleans.

    With `rng` the assignments come in a random order: in a fixed one, a small model memorizes the first lines of a
    puzzle instead of working them out.

    Args:
        mistake: The probability that a value is written down wrong and used from there on. Needs `rng`.
    """
    n = len(statements)
    lines = []
    world = (True,) * n
    numbers = list(reversed(range(1 << n)))
    if rng:
        rng.shuffle(numbers)
    for number in numbers:
        world = tuple(bool(number >> (n - 1 - i) & 1) for i in range(n))
        about = ", ".join(f"{name} {KIND[kind]}" for name, kind in zip(names, world))
        fits = True
        for i, statement in enumerate(statements):
            words, value = _worked(statement, names, world, mistake, rng)
            fits = value == world[i]
            lines.append(f"{about}: {names[i]} says {words}, {'fits' if fits else 'clash'}.")
            if not fits:
                break
        if fits:
            break
    return "\n".join(lines), world


def _worked(statement: tuple, names: list[str], world, mistake: float, rng) -> tuple[str, bool]:
    """A statement in short form, each part followed by its value and then the value of the whole; and that value."""

    def slip(value: bool) -> bool:
        return value != (mistake > 0 and rng.random() < mistake)

    def short(part: tuple) -> str:
        return claim(part, names).replace(" is ", " ").replace(" a ", " ")

    kind = statement[0]
    if kind not in JOIN:
        value = slip(holds(statement, world))
        return f"{short(statement)} {WORD[value]}", value
    x, y = (slip(holds(part, world)) for part in statement[1:])
    value = slip({"and": x and y, "or": x or y, "->": not x or y, "<=>": x == y}[kind])
    first, second = (f"{short(part)} {WORD[v]}" for part, v in zip(statement[1:], (x, y)))
    return f"{first} {JOIN[kind]} {second}, {WORD[value]}", value
