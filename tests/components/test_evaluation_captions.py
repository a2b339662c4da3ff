import shutil
import string

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from components.evaluation.estimates import MetricUnavailable
from components.evaluation.metrics.captions import cider_d, penn_treebank_tokens

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="java is not installed: captions are not tokenized")
words = st.lists(st.sampled_from(list(string.ascii_lowercase[:6])), min_size=0, max_size=9)


@given(st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=3)), min_size=1, max_size=6))
def test_scores_equal_the_reference_implementation(images):
    candidates = [candidate for candidate, _ in images]
    references = [group for _, group in images]
    assume(any(tokens for group in references for tokens in group))  # the reference code cannot score only empty references
    _, expected = Cider().compute_score(
        {i: [" ".join(tokens) for tokens in group] for i, group in enumerate(references)},
        {i: [" ".join(tokens)] for i, tokens in enumerate(candidates)},
    )
    np.testing.assert_allclose(cider_d(candidates, references), expected, atol=1e-9)


def test_scores_depend_on_the_scored_set():
    references = [[["a", "b"]], [["a", "d"]], [["e", "f"]]]
    candidates = [["a", "c"], ["a", "d"], ["e"]]
    assert cider_d(candidates[:2], references[:2])[0] == 0
    assert cider_d(candidates, references)[0] > 0
    assert cider_d(candidates[:1], references[:1])[0] == 0


def test_a_missing_candidate_is_an_error():
    with pytest.raises(ValueError, match="one candidate"):
        cider_d([["a"]], [[["a"]], [["b"]]])
    with pytest.raises(ValueError, match="at least one reference"):
        cider_d([["a"]], [[]])


@needs_java
def test_tokens_are_the_penn_treebanks_without_punctuation():
    assert penn_treebank_tokens(["A dog isn't here, (really)!", "", "7 - top left."]) == [
        ["a", "dog", "is", "n't", "here", "-lrb-", "really", "-rrb-"],
        [],
        ["7", "top", "left"],
    ]


@needs_java
def test_line_breaks_inside_a_caption_do_not_shift_the_next():
    breaks = "\n\r\v\f\u2028\u2029\x85\x1c"
    captions = [f"one{mark}two" for mark in breaks] + ["last"]
    assert penn_treebank_tokens(captions)[-1] == ["last"]


def test_without_java_the_metric_is_unavailable_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MetricUnavailable, match="`java` on PATH"):
        penn_treebank_tokens(["a"])
