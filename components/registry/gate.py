"""The gate: may this challenger take the champion's place? Pure: two evaluations and a rule in, a decision with its reasons out.

Both must have answered the same manifest. Paired tests as in reference arXiv 2411.00640: McNemar's exact test where a document is right or
wrong, a sign-flip permutation test otherwise, both one-sided and over documents (samples of one document are not independent).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from components.params import GateRule

RESAMPLES = 9999
GUARD_CONFIDENCE = 0.95
Verdict = Literal["promoted", "rejected", "unchanged", "not compared"]


@dataclass(frozen=True)
class Evaluated:
    """What is known of one model on one manifest.

    `values` are metrics over everything, `scores` each document's own, by metric and document id.
    """

    digest: str
    manifest: str
    values: Mapping[str, float]
    scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Comparison:
    """One metric of challenger and champion.

    `p` is one-sided: the chance of such a gain between equal models; `p_holm` is the same after Holm's correction.
    """

    metric: str
    challenger: float
    champion: float
    documents: int
    test: str
    p: float
    p_holm: float

    @property
    def gain(self) -> float:
        """Challenger minus champion."""
        return self.challenger - self.champion


@dataclass(frozen=True)
class GateDecision:
    """The verdict, why in words, and the numbers behind it (JSON values)."""

    verdict: Verdict
    reasons: tuple[str, ...]
    evidence: dict[str, Any]


def decide(rule: GateRule, challenger: Evaluated, champion: Evaluated | None) -> GateDecision:
    """Compare. A challenger is promoted when its primary metric reaches the minimum and, against a champion, when one of the rule's metrics
    is better by at least the smallest gain with Holm-corrected significance while every guard metric holds."""
    evidence: dict[str, Any] = {
        "rule": rule.model_dump(mode="json"),
        "challenger": _summary(challenger),
        "champion": _summary(champion) if champion else None,
    }
    if champion is not None and champion.digest == challenger.digest:
        return GateDecision("unchanged", ("the weights are those of the champion",), evidence)
    if (value := challenger.values.get(rule.metric)) is None:
        return GateDecision("not compared", (f"{rule.metric} is unavailable for the challenger",), evidence)
    if value < rule.minimum:
        return GateDecision("rejected", (f"{rule.metric} {value:.3f} is below the minimum {rule.minimum:.3f}",), evidence)
    if champion is None:
        return GateDecision(
            "promoted", (f"{rule.metric} {value:.3f} reaches the minimum {rule.minimum:.3f} and there is no champion yet",), evidence
        )
    if champion.manifest != challenger.manifest:
        return GateDecision(
            "not compared", ("challenger and champion were evaluated on different documents or settings (another manifest)",), evidence
        )
    try:
        compared = _compare(rule, challenger, champion)
        guards = [_guard(metric, margin, challenger, champion) for metric, margin in rule.guards.items()]
    except LookupError as error:
        return GateDecision("not compared", (str(error).strip("'\""),), evidence)
    evidence |= {"comparisons": [asdict(one) for one in compared], "guards": [guard for guard, _ in guards]}
    better = [one for one in compared if one.gain >= rule.smallest_gain and one.gain > 0 and one.p_holm < rule.alpha]
    failed = [reason for guard, reason in guards if not guard["holds"]]
    reasons = tuple(_in_words(one, rule) for one in compared) + tuple(reason for _, reason in guards)
    return GateDecision("promoted" if better and not failed else "rejected", reasons, evidence)


def holm(values: list[float]) -> list[float]:
    """Holm's step-down adjustment of p values, in their order."""
    order = np.argsort(values)
    scaled = np.asarray(values, dtype=np.float64)[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in adjusted]


def paired_p(challenger: np.ndarray, champion: np.ndarray) -> tuple[float, str]:
    """One-sided p value that the challenger is better, and the test's name. Arrays [documents] float64, paired."""
    from scipy.stats import binomtest, permutation_test  # a second that most decisions need not wait for

    differences = challenger - champion
    if not differences.any():
        return 1.0, "no document differs"
    if set(np.unique([challenger, champion])) <= {0.0, 1.0}:
        won, lost = int((differences > 0).sum()), int((differences < 0).sum())
        return float(binomtest(won, won + lost, 0.5, alternative="greater").pvalue), "McNemar exact"
    changed = differences[differences != 0]
    tested = permutation_test(
        (changed,),
        _mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return float(tested.pvalue), "sign-flip"


def _compare(rule: GateRule, challenger: Evaluated, champion: Evaluated) -> list[Comparison]:
    metrics = [rule.metric, *rule.also]
    tested = [paired_p(*_paired(metric, challenger, champion)) for metric in metrics]
    adjusted = holm([p for p, _ in tested])
    return [
        Comparison(metric, challenger.values[metric], champion.values[metric], len(challenger.scores[metric]), test, p, corrected)
        for metric, (p, test), corrected in zip(metrics, tested, adjusted, strict=True)
    ]


def _guard(metric: str, margin: float, challenger: Evaluated, champion: Evaluated) -> tuple[dict[str, Any], str]:
    from scipy.stats import bootstrap

    new, old = _paired(metric, challenger, champion)
    differences = new - old
    low = float(differences.min())
    if low != float(differences.max()):
        level = 2 * GUARD_CONFIDENCE - 1  # the lower end of this interval is the one-sided bound
        drawn = bootstrap((differences,), _mean, vectorized=True, confidence_level=level, method="percentile", rng=np.random.default_rng(0))
        low = float(drawn.confidence_interval.low)
    holds = low > -margin
    words = "is not worse" if holds else "may be worse"
    reason = f"guard {metric} {words} than the champion's by {margin:.3f} (lower bound of the difference {low:+.3f})"
    return {"metric": metric, "margin": margin, "low": low, "holds": holds}, reason


def _paired(metric: str, challenger: Evaluated, champion: Evaluated) -> tuple[np.ndarray, np.ndarray]:
    for name, side in (("challenger", challenger), ("champion", champion)):
        if metric not in side.scores or metric not in side.values:
            raise LookupError(f"{metric} is unavailable for the {name}")
    new, old = challenger.scores[metric], champion.scores[metric]
    if set(new) != set(old):
        raise LookupError(f"{metric} was scored on different documents ({len(set(new) ^ set(old))} are in one evaluation only)")
    ids = sorted(new)
    return np.array([new[one] for one in ids], dtype=np.float64), np.array([old[one] for one in ids], dtype=np.float64)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(axis=axis)


def _summary(side: Evaluated) -> dict[str, Any]:
    return {"digest": side.digest, "manifest": side.manifest, "values": dict(side.values)}


def _in_words(one: Comparison, rule: GateRule) -> str:
    evidence = f"{one.test}, {one.documents} documents, p = {one.p_holm:.3g}"
    numbers = f"{one.metric} {one.challenger:.3f} against the champion's {one.champion:.3f} ({evidence})"
    if one.gain <= 0:
        return f"{numbers}: no gain"
    if one.gain < rule.smallest_gain:
        return f"{numbers}: the gain {one.gain:.3f} is below the smallest that matters, {rule.smallest_gain:.3f}"
    if one.p_holm >= rule.alpha:
        return f"{numbers}: the gain {one.gain:.3f} may be chance"
    return f"{numbers}: better by {one.gain:.3f}"
