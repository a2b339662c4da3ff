"""Intervals: Wilson for independent right-or-wrong samples, SciPy's percentile bootstrap over documents for everything else.

Documents, not samples, are resampled wherever one document gives several samples: those are not independent (arXiv 2411.00640).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

from components.evaluation.estimates import Estimate


@dataclass(frozen=True)
class Resampling:
    """How intervals are made; the same values give the same interval."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0


def proportion(correct: Sequence[bool], how: Resampling, *, chance: float | None = None, ceiling: float | None = None) -> Estimate:
    """Share of right answers with its Wilson interval; samples must be independent. Raises ValueError without samples."""
    n = len(correct)
    if n == 0:
        raise ValueError("a share needs at least one sample")
    right = int(sum(bool(one) for one in correct))
    interval = binomtest(right, n).proportion_ci(confidence_level=how.confidence, method="wilson")
    return Estimate(value=right / n, low=float(interval.low), high=float(interval.high), n=n, chance=chance, ceiling=ceiling)


def clustered_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    how: Resampling,
    *,
    chance: float | None = None,
    ceiling: float | None = None,
) -> Estimate:
    """Mean over samples; the interval resamples whole clusters (documents). Raises ValueError without samples or for unequal lengths."""
    if len(values) != len(clusters) or not values:
        raise ValueError(f"expected one cluster per value and at least one value, got {len(values)} values and {len(clusters)} clusters")
    names: dict[Hashable, int] = {}
    rows = np.array([names.setdefault(cluster, len(names)) for cluster in clusters])
    sums = np.bincount(rows, weights=np.asarray(values, dtype=np.float64))
    counts = np.bincount(rows).astype(np.float64)

    def mean(chosen: np.ndarray) -> np.ndarray:
        return sums[chosen].sum(axis=-1) / counts[chosen].sum(axis=-1)

    low, high = _interval(mean, len(sums), how)
    return Estimate(value=float(sums.sum() / counts.sum()), low=low, high=high, n=len(values), chance=chance, ceiling=ceiling)


def resampled(statistic: Callable[[np.ndarray], np.ndarray], n: int, how: Resampling, *, ceiling: float | None = None) -> Estimate:
    """Any statistic of `n` documents.

    `statistic` takes document numbers [..., n] (int64) and returns [...] float64; a resample in which it is undefined may give NaN,
    which is left out of the interval. Raises ValueError when it is undefined on all documents.
    """
    value = float(statistic(np.arange(n)[None])[0]) if n else float("nan")
    if not np.isfinite(value):
        raise ValueError(f"the statistic of {n} documents is undefined")
    low, high = _interval(statistic, n, how)
    return Estimate(value=value, low=low, high=high, n=n, ceiling=ceiling)


def _interval(statistic: Callable[[np.ndarray], np.ndarray], n: int, how: Resampling) -> tuple[float, float]:
    """Ends of the percentile interval of a statistic of `n` exchangeable documents; of one document, the whole of nothing: its value."""
    if n == 1:
        value = float(statistic(np.zeros((1, 1), dtype=np.int64))[0])
        return value, value

    def of_axis(chosen: np.ndarray, axis: int) -> np.ndarray:
        return statistic(np.moveaxis(chosen, axis, -1))

    drawn = bootstrap(
        (np.arange(n),),
        of_axis,
        n_resamples=how.resamples,
        vectorized=True,
        batch=256,
        confidence_level=how.confidence,
        method="percentile",
        rng=np.random.default_rng(how.seed),
    ).bootstrap_distribution
    tail = (1 - how.confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return float(low), float(high)
