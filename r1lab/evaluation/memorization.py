"""How much of what a model solves is memorized: puzzles compared with their perturbed twins."""

from collections.abc import Sequence

import numpy as np

from r1lab.evaluation import stats


def limem(solved: Sequence[float], twin_solved: Sequence[float]) -> dict:
    """The memorization score of Xie et al. (arXiv:2410.23123, section 2.2), as Logic-RL (arXiv:2502.14768) uses it.

    LiMem = Acc (1 - CR), where Acc is the share of puzzles that are solved and CR, the consistency ratio, is the
    share of those whose twin is solved too. A value between 0 and 1 is the probability that a sample is correct;
    puzzle and twin are sampled independently. With these probabilities `p` for a puzzle and `q` for its twin,
    Acc = mean p, CR = mean pq / mean p, and therefore LiMem = mean p (1 - q). This is a mean over puzzles, and its
    interval is that of `stats.mean_ci95`.

    A model that is merely uncertain gets a positive score too: if it is correct half of the time on every puzzle, its
    score is 0.25. Compare the score with that of puzzles that were never trained on.

    Args:
        solved: For each puzzle, 0 or 1, or the share of its samples that are correct.
        twin_solved: The same for its twin.

    Returns:
        `acc`, `cr` (None where nothing is solved), `limem`, `ci95` (of `limem`) and `n_pairs`.

    Raises:
        ValueError: There are no pairs, a puzzle lacks its twin, or a value is outside [0, 1].

    >>> scores = limem([1, 1, 1, 0], [1, 0, 0, 1])
    >>> scores["acc"], round(scores["cr"], 3), scores["limem"]
    (0.75, 0.333, 0.5)
    """
    p, q = np.asarray(solved, dtype=float), np.asarray(twin_solved, dtype=float)
    if p.ndim != 1 or p.shape != q.shape or not len(p):
        raise ValueError(f"limem needs one value per puzzle and one per twin, but got {p.shape} and {q.shape}")
    if not all(((0 <= x) & (x <= 1)).all() for x in (p, q)):
        raise ValueError("a value outside [0, 1]")
    return {
        "n_pairs": len(p),
        "acc": float(p.mean()),
        "cr": float((p * q).sum() / p.sum()) if p.any() else None,
        "limem": float((p * (1 - q)).mean()),
        "ci95": list(stats.mean_ci95((p * (1 - q)).tolist())),
    }
