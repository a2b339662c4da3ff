import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from components.evaluation.estimates import Estimate, Unavailable, read_metrics, write_metrics
from components.evaluation.statistics import Resampling, clustered_mean, proportion, resampled

HOW = Resampling(resamples=400)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_wilson_interval_is_scipys_and_holds_the_value(correct):
    estimate = proportion(correct, HOW)
    expected = binomtest(sum(correct), len(correct)).proportion_ci(0.95, method="wilson")
    assert (estimate.low, estimate.high, estimate.n) == (expected.low, expected.high, len(correct))
    assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12


def test_no_samples_is_an_error_and_not_a_number():
    with pytest.raises(ValueError, match="at least one"):
        proportion([], HOW)
    with pytest.raises(ValueError, match="at least one"):
        clustered_mean([], [], HOW)


def test_samples_of_one_document_widen_the_interval():
    rng = np.random.default_rng(0)
    documents = rng.integers(0, 2, 50)
    values = np.repeat(documents, 8).astype(float)
    clustered = clustered_mean(values.tolist(), np.repeat(np.arange(50), 8).tolist(), HOW)
    independent = proportion(values.astype(bool).tolist(), HOW)
    assert clustered.value == pytest.approx(independent.value)
    assert clustered.high - clustered.low > 2 * (independent.high - independent.low)


def test_mean_weighs_samples_and_not_documents():
    assert clustered_mean([1, 1, 1, 0], ["a", "a", "a", "b"], HOW).value == 0.75


def test_the_same_settings_give_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(1).normal(size=40)

    def mean(rows: np.ndarray) -> np.ndarray:
        return values[rows].mean(axis=-1)

    assert resampled(mean, 40, HOW) == resampled(mean, 40, HOW)
    assert resampled(mean, 40, HOW) != resampled(mean, 40, Resampling(resamples=400, seed=1))


def test_bootstrap_interval_of_a_mean_is_about_the_normal_one():
    values = np.random.default_rng(2).normal(size=400)
    estimate = resampled(lambda rows: values[rows].mean(axis=-1), 400, Resampling(resamples=4000))
    half = 1.96 * values.std() / 20
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.08)


def test_one_document_has_a_point_interval():
    estimate = clustered_mean([1.0, 0.0], ["a", "a"], HOW)
    assert (estimate.low, estimate.value, estimate.high) == (0.5, 0.5, 0.5)


def test_metrics_file_reads_back(tmp_path):
    metrics = {"b": Estimate(value=0.5, low=0.4, high=0.6, n=10, chance=0.1), "a": Unavailable(unavailable="no java")}
    write_metrics(tmp_path / "metrics.json", metrics)
    assert read_metrics(tmp_path / "metrics.json") == metrics
    (tmp_path / "metrics.json").write_text('{"a": 3}')
    with pytest.raises(ValueError, match="holds no metrics"):
        read_metrics(tmp_path / "metrics.json")
