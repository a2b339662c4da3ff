"""The gate promotes on evidence only: same manifest, a gain that matters and is no chance, guards that hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from components.params import GateRule
from components.registry.gate import Evaluated, decide, holm, paired_p

RULE = GateRule(metric="accuracy", minimum=0.5)


def evaluated(digest: str, manifest: str = "m", **scores: list[float]) -> Evaluated:
    rows = {metric: {f"d{number}": value for number, value in enumerate(values)} for metric, values in scores.items()}
    return Evaluated(digest, manifest, {metric: float(np.mean(values)) for metric, values in scores.items()}, rows)


def right(share: float, n: int = 200) -> list[float]:
    return [1.0] * round(share * n) + [0.0] * (n - round(share * n))


def test_the_first_model_above_the_minimum_is_promoted() -> None:
    decision = decide(RULE, evaluated("new", accuracy=right(0.6)), None)
    assert (decision.verdict, decision.reasons) == ("promoted", ("accuracy 0.600 reaches the minimum 0.500 and there is no champion yet",))


def test_below_the_minimum_nothing_is_promoted() -> None:
    decision = decide(RULE, evaluated("new", accuracy=right(0.4)), None)
    assert (decision.verdict, decision.reasons) == ("rejected", ("accuracy 0.400 is below the minimum 0.500",))


def test_equal_weights_are_unchanged_even_below_the_minimum() -> None:
    side = evaluated("same", accuracy=right(0.1))
    assert decide(RULE, side, side).verdict == "unchanged"


def test_a_clear_gain_is_promoted_and_the_reason_tells_the_numbers() -> None:
    decision = decide(RULE, evaluated("new", accuracy=right(0.8)), evaluated("old", accuracy=right(0.6)))
    assert decision.verdict == "promoted"
    assert "accuracy 0.800 against the champion's 0.600 (McNemar exact, 200 documents" in decision.reasons[0]
    json.dumps(decision.evidence, allow_nan=False)


def test_a_gain_that_may_be_chance_is_rejected() -> None:
    decision = decide(RULE, evaluated("new", accuracy=right(0.615)), evaluated("old", accuracy=right(0.6)))
    assert decision.verdict == "rejected"
    assert "may be chance" in decision.reasons[0]


def test_a_gain_below_the_smallest_that_matters_is_rejected() -> None:
    rule = RULE.model_copy(update={"smallest_gain": 0.3})
    decision = decide(rule, evaluated("new", accuracy=right(0.8)), evaluated("old", accuracy=right(0.6)))
    assert decision.verdict == "rejected"
    assert "below the smallest that matters" in decision.reasons[0]


def test_another_manifest_is_not_compared() -> None:
    decision = decide(RULE, evaluated("new", "m1", accuracy=right(0.9)), evaluated("old", "m2", accuracy=right(0.6)))
    assert decision.verdict == "not compared"


def test_an_unavailable_metric_is_not_compared() -> None:
    assert decide(RULE, evaluated("new", other=[1.0]), None).reasons == ("accuracy is unavailable for the challenger",)
    assert decide(RULE, evaluated("new", accuracy=right(0.9)), evaluated("old", other=[1.0])).reasons == (
        "accuracy is unavailable for the champion",
    )


def test_other_documents_are_not_compared() -> None:
    decision = decide(RULE, evaluated("new", accuracy=right(0.9, 100)), evaluated("old", accuracy=right(0.6, 101)))
    assert decision.verdict == "not compared"
    assert "1 are in one evaluation only" in decision.reasons[0]


def test_a_guard_that_may_be_worse_stops_the_promotion() -> None:
    rule = RULE.model_copy(update={"guards": {"stops": 0.05}})
    worse = decide(rule, evaluated("new", accuracy=right(0.8), stops=right(0.7)), evaluated("old", accuracy=right(0.6), stops=right(0.9)))
    same = decide(rule, evaluated("new", accuracy=right(0.8), stops=right(0.9)), evaluated("old", accuracy=right(0.6), stops=right(0.9)))
    assert (worse.verdict, same.verdict) == ("rejected", "promoted")
    assert any("guard stops may be worse" in reason for reason in worse.reasons)


def test_one_of_several_metrics_suffices_and_is_corrected_for_their_number() -> None:
    rule = RULE.model_copy(update={"also": ("cider",)})
    rng = np.random.default_rng(1)
    old = rng.random(100)
    decision = decide(
        rule, evaluated("new", accuracy=right(0.6), cider=list(old + 0.05)), evaluated("old", accuracy=right(0.6), cider=list(old))
    )
    assert decision.verdict == "promoted"
    cider = next(one for one in decision.evidence["comparisons"] if one["metric"] == "cider")
    assert cider["test"] == "sign-flip"
    assert cider["p_holm"] == pytest.approx(2 * cider["p"])


@given(st.integers(0, 30), st.integers(0, 30))
def test_right_and_wrong_answers_are_tested_by_the_binomial_tail(won: int, lost: int) -> None:
    new, old = np.array([1.0] * won + [0.0] * lost + [1.0]), np.array([0.0] * won + [1.0] * lost + [1.0])
    p, _ = paired_p(new, old)
    assert p == pytest.approx(binom.sf(won - 1, won + lost, 0.5) if won + lost else 1.0)


def test_few_graded_documents_are_tested_exactly() -> None:
    new, old = np.array([0.3, 0.5, 0.9, 0.4]), np.array([0.2, 0.1, 0.3, 0.3])
    assert paired_p(new, old) == (pytest.approx(1 / 16), "sign-flip")


def test_holm_is_the_step_down_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
