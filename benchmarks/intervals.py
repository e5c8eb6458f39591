"""How often 95 % intervals contain the truth: python benchmarks/intervals.py [DATA_SETS]. Prints JSON, in percent.

Each data set is an evaluation of n questions with m samples each. The probability that a question is answered
correctly is drawn from a beta distribution. `r1lab.evaluation.stats.mean_ci95` is compared with the plain percentile
bootstrap, Student's t, and Wilson's interval with an effective number of samples, computed from the spread between
questions. All data sets share the same resamples, drawn once, which takes minutes instead of days; one data set in 500
also goes through `mean_ci95` itself, to check that the two agree.
"""

import json
import sys
import time

import numpy as np

from r1lab.evaluation import stats

QUESTIONS, SAMPLES = (30, 100, 500), (1, 4, 16)
CHANCES = {"even, 0.5": (1.0, 1.0), "easy or hard, 0.5": (0.5, 0.5), "mostly hard, 0.2": (0.5, 2.0),
           "mostly easy, 0.8": (2.0, 0.5), "nearly all hard, 0.02": (0.02, 0.98),
           "nearly all easy, 0.98": (0.98, 0.02)}  # fmt: skip
RESAMPLES, ROWS = 2000, 500


def intervals(means: np.ndarray, samples: int, weights: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The bounds of each method, one pair per data set, from the means of shape (data sets, questions)."""
    _, n = means.shape
    center, spread = means.mean(1), means.std(1, ddof=1)
    resampled = np.sort(means.astype(np.float32) @ weights.T, axis=1)
    plain = np.quantile(resampled, (0.025, 0.975), axis=1)
    tail = stats.expanded_tail(n)
    expanded = np.quantile(resampled, (tail, 1 - tail), axis=1)
    wilson = _wilson(center, np.full(len(means), float(n)), stats.Z)
    with np.errstate(divide="ignore", invalid="ignore"):
        alone = np.where(
            spread > 0, center * (1 - center) * n / spread**2, n
        )  # the number of samples with the same spread
    half = stats.t_quantile(n - 1) * spread / np.sqrt(n)
    alike = np.max([(means == k / samples).sum(1) for k in range(samples + 1)], axis=0)
    few, unseen = n - alike < stats.FEW, stats.Z**2 / (n + stats.Z**2)
    low = np.where(few, np.minimum(expanded[0], center - unseen * center), expanded[0])
    high = np.where(few, np.maximum(expanded[1], center + unseen * (1 - center)), expanded[1])
    ours = wilson if samples == 1 else (low, high)
    return {
        "mean_ci95": ours,
        "percentile": tuple(plain),
        "student": (center - half, center + half),
        "wilson, effective": _wilson(center, np.clip(alone, n / 2, n * samples), stats.t_quantile(n - 1)),
    }


def _wilson(share: np.ndarray, count: np.ndarray, z: float) -> tuple[np.ndarray, np.ndarray]:
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return center - half, center + half


def main() -> None:
    """Prints the coverage of each method, and the largest distance of `mean_ci95` from its batched version."""
    data_sets = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    generator, rows, apart, started = np.random.default_rng(0), [], 0.0, time.time()
    for name, (a, b) in CHANCES.items():
        for n in QUESTIONS:
            weights = (generator.multinomial(n, [1 / n] * n, RESAMPLES) / n).astype(np.float32)
            for m in SAMPLES:
                held, widths, done = {}, {}, 0
                while done < data_sets:
                    means = generator.binomial(m, generator.beta(a, b, (min(ROWS, data_sets - done), n))) / m
                    found = intervals(means, m, weights)
                    for method, (low, high) in found.items():
                        held[method] = held.get(method, 0) + int(((low <= a / (a + b)) & (a / (a + b) <= high)).sum())
                        widths[method] = widths.get(method, 0.0) + float((high - low).sum())
                    itself = stats.mean_ci95(means[0])
                    apart = max(apart, *(abs(x - y[0]) for x, y in zip(itself, found["mean_ci95"])))
                    done += len(means)
                cover = {method: round(100 * count / data_sets, 1) for method, count in held.items()}
                rows.append({"chances": name, "questions": n, "samples": m, "coverage": cover,
                             "width": {k: round(100 * w / data_sets, 1) for k, w in widths.items()}})  # fmt: skip
                print(f"{name}: {n} questions, {m} samples: {cover}", file=sys.stderr, flush=True)
    seconds = round(time.time() - started)
    print(json.dumps({"data_sets": data_sets, "seconds": seconds, "apart": round(apart, 4), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
