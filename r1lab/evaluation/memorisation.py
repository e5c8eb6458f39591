"""How much of what a model solves it knows by heart: puzzles against their perturbed twins."""

from collections.abc import Sequence

import numpy as np

from r1lab.evaluation import stats


def limem(solved: Sequence[float], twin_solved: Sequence[float]) -> dict:
    """The memorisation score of Xie et al. (arXiv:2410.23123, section 2.2), as Logic-RL (arXiv:2502.14768) uses it.

    LiMem = Acc (1 - CR), where Acc is the share of the puzzles that are solved and CR, the consistency ratio, the
    share of those whose twin is solved too. A value between 0 and 1 is the chance that a sample is right; puzzle and
    twin are sampled independently. With `p` and `q` those of a puzzle and of its twin, Acc = mean p, CR = mean pq /
    mean p, and so LiMem = mean p (1 - q): a mean over puzzles, whose interval is that of `stats.mean_ci95`.

    A model that is merely unsure scores too: right half the time on all, it has 0.25. Compare a score with that of
    puzzles that were never trained on.

    Args:
        solved: Of each puzzle, 0 or 1, or the share of its samples that are right.
        twin_solved: The same of its twin.

    Returns:
        `acc`, `cr` (None where nothing is solved), `limem`, `ci95` (of `limem`) and `n_pairs`.

    Raises:
        ValueError: There are no pairs, a puzzle lacks its twin, or a value is outside [0, 1].

    >>> figures = limem([1, 1, 1, 0], [1, 0, 0, 1])
    >>> figures["acc"], round(figures["cr"], 3), figures["limem"]
    (0.75, 0.333, 0.5)
    """
    p, q = np.asarray(solved, dtype=float), np.asarray(twin_solved, dtype=float)
    if p.ndim != 1 or p.shape != q.shape or not len(p):
        raise ValueError(f"one value a puzzle and one a twin are needed: {p.shape} and {q.shape}")
    if not all(((0 <= x) & (x <= 1)).all() for x in (p, q)):
        raise ValueError("a value outside [0, 1]")
    return {
        "n_pairs": len(p),
        "acc": float(p.mean()),
        "cr": float((p * q).sum() / p.sum()) if p.any() else None,
        "limem": float((p * (1 - q)).mean()),
        "ci95": list(stats.mean_ci95((p * (1 - q)).tolist())),
    }
