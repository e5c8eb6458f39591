"""How numbers, durations, lists and suggestions are formatted in everything that r1lab prints."""

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

_SPARKS = "▁▂▃▄▅▆▇█"
_ALIKE = 0.6  # the similarity from which a name is suggested, of at most 1


def duration(seconds: float) -> str:
    """A duration in hours, minutes and seconds.

    >>> duration(7.4), duration(200), duration(3900)
    ('7s', '3m20s', '1h05m')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def sparkline(values: list[float], width: int) -> str:
    """Values as a row of at most `width` small bars, scaled from the lowest to the highest mean.

    >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8)
    '▁▂▃▄▅▆▇█'
    """
    count = min(width, len(values))
    if count < 2:
        return ""
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0
    return "".join(_SPARKS[round((mean - low) * scale)] for mean in means)


def number(value: float | None, digits: int = 3) -> str:
    """A number for a narrow column; a dash for None. One that would be rounded to 0 has more digits, or an exponent.

    >>> number(0.4123), number(-0.0042, 2), number(0.004, 2), number(8.1e-06), number(None)
    ('0.412', '-0.004', '0.004', '8.1e-06', '-')
    """
    if value is None:
        return "-"
    if value and abs(value) < 10**-digits:
        return f"{value:.3f}" if abs(value) >= 1e-3 else f"{value:.1e}"
    return f"{value:.{digits}f}"


def percent(value: float | None, ci95: Sequence[float] | None = None, *, signed: bool = False) -> str:
    """A share as a percentage with its interval.

    >>> percent(0.373, [0.321, 0.425]), percent(0.217, [0.15, 0.27], signed=True)
    ('37.3 [32.1, 42.5]', '+21.7 [+15.0, +27.0]')
    """
    if value is None:
        return "-"
    sign = "+" if signed else ""
    interval = f" [{100 * ci95[0]:{sign}.1f}, {100 * ci95[1]:{sign}.1f}]" if ci95 else ""
    return f"{100 * value:{sign}.1f}{interval}"


def shortened(text: str, head: int, tail: int) -> str:
    """A text on one line, without its middle if it is long.

    >>> shortened("a long story with an end", 6, 6)
    'a long … an end'
    """
    text = " ".join(text.split())
    if len(text) <= head + tail + 3:
        return text
    return f"{text[:head].rstrip()} … {text[len(text) - tail :].lstrip()}".strip()


def did_you_mean(word: object, choices: Iterable[object], *, otherwise: str = "") -> str:
    """` (did you mean X?)` for the choice that a word abbreviates or is most similar to; `otherwise` if there is none.

    >>> did_you_mean("learning_rte", ["learning_rate", "beta"])
    ' (did you mean `learning_rate`?)'
    >>> did_you_mean("lr", ["lr_scheduler_type", "learning_rate"])
    ' (did you mean `learning_rate`?)'
    """
    choices = [str(choice) for choice in choices]
    if abbreviated := next((choice for choice in choices if _initials(choice) == str(word).lower()), None):
        return f" (did you mean `{abbreviated}`?)"
    close = difflib.get_close_matches(str(word), choices, n=1, cutoff=_ALIKE)
    return f" (did you mean `{close[0]}`?)" if close else otherwise


def _initials(name: str) -> str | None:
    """The initial letters of a name of several words; None for one word."""
    words = [word for word in name.lower().split("_") if word]
    return "".join(word[0] for word in words) if len(words) > 1 else None


def did_you_mean_path(path: str | Path, fits: Callable[[Path], bool] = os.path.isdir) -> str:
    """` (did you mean PATH?)` for the existing path that is most similar to a missing one; empty if none is.

    Each name in the path may be misspelled, and that of a file may have another suffix.

    Args:
        fits: Whether something is of the kind that is missing, by default a folder.
    """
    parts = Path(path).expanduser().parts
    # Functions of os.path, because methods of Path raise an error where the user may not look.
    found = None if not parts or os.path.exists(Path(*parts)) else next(_similar(Path(), parts, fits), None)
    return f" (did you mean `{found}`?)" if found else ""


def _similar(folder: Path, parts: Sequence[str], fits: Callable[[Path], bool]) -> Iterator[Path]:
    """Existing paths in a folder whose names are similar to `parts`, the most similar first."""
    name, *below = parts
    if below and os.path.isdir(folder / name):
        yield from _similar(folder / name, below, fits)
        return
    there = [(_likeness(name, path), path) for path in folder.glob("*") if os.path.exists(path)]
    for _, path in sorted([each for each in there if each[0][0] >= _ALIKE], reverse=True):
        if below and os.path.isdir(path):
            yield from _similar(path, below, fits)
        elif not below and fits(path):
            yield path


def _likeness(name: str, path: Path) -> tuple[float, float]:
    """How similar a name is to that of a file or folder, and its suffix to that of a file.

    Suffixes are compared apart, because any two short names with the same suffix would be similar.
    """
    if os.path.isdir(path):
        return _ratio(name, path.name), 0.0
    return _ratio(Path(name).stem, path.stem), _ratio(Path(name).suffix, path.suffix)


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def either(choices: list) -> str:
    """`4`, `4 or 8`, `2, 4 or 8`."""
    *first, last = map(str, choices)
    return f"{', '.join(first)} or {last}" if first else last


def counted(count: int, noun: str) -> str:
    """A number with its noun in the singular or the plural.

    >>> counted(1, "warning"), counted(12_000, "row")
    ('1 warning', '12,000 rows')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"


def part_of_steps(steps: int, parts: int) -> str:
    """What the first or the last of `parts` equal parts of a training is called, of which each has at least one step.

    >>> part_of_steps(100, 5), part_of_steps(20, 10), part_of_steps(9, 5)
    ('fifth of the steps', 'tenth of the steps', 'step')
    """
    return f"{ {5: 'fifth', 10: 'tenth'}[parts] } of the steps" if steps >= 2 * parts else "step"


def rough_duration(seconds: float | None) -> str:
    """A duration in the largest unit in which it is at least 1.

    >>> rough_duration(5400), rough_duration(42), rough_duration(None)
    ('1.5 h', '42 s', '?')
    """
    if seconds is None:
        return "?"
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, seconds):.0f} s"
