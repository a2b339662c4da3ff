"""Packing, mixture and plan: arithmetic that every rank and every restart must agree on."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.keyed import generator
from components.data.mixture import BLOCK, Mixture
from components.data.packing import pack
from components.data.plan import Anchor, SourcePlan
from components.params import COMPOSED_KINDS


@given(st.lists(st.integers(1, 64), max_size=200))
def test_every_document_is_in_one_row_and_no_row_overflows(lengths: list[int]) -> None:
    rows = pack(lengths, 64)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[number] for number in row) <= 64 for row in rows)
    assert len(rows) <= 1.5 * max(1, -(-sum(lengths) // 64)) + 1  # best-fit decreasing needs at most 11/9 of the optimum + 1


@given(st.lists(st.integers(1, 64), max_size=60))
def test_each_document_went_into_the_fullest_row_that_could_take_it(lengths: list[int]) -> None:
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in free if room >= length]
        if fitting:
            free.remove(min(fitting))
        free.append((min(fitting) if fitting else 64) - length)
    assert sorted(free) == sorted(64 - sum(lengths[number] for number in row) for row in pack(lengths, 64))


def test_a_document_longer_than_a_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="document 1 has 65 tokens"):
        pack([3, 65], 64)


@given(st.dictionaries(st.sampled_from(COMPOSED_KINDS), st.floats(0.01, 10), min_size=1), st.integers(0, 3 * BLOCK), st.integers(0, 9))
@settings(max_examples=30)
def test_a_draw_knows_how_many_of_its_kind_came_before(weights: dict, number: int, seed: int) -> None:
    mixture = Mixture(weights, seed)
    counts = Counter(mixture.draw(earlier)[0] for earlier in range(number))
    assert {kind: counts[kind] for kind in mixture.kinds} == mixture.before(number)
    kind, ordinal = mixture.draw(number)
    assert ordinal == counts[kind]


def test_proportions_are_those_of_the_weights() -> None:
    mixture = Mixture({"caption": 2, "story": 1, "question": 5, "style": 0}, 0)
    counts = mixture.before(8 * BLOCK)
    assert set(counts) == {"caption", "story", "question"}
    for kind, weight in {"caption": 2, "story": 1, "question": 5}.items():
        assert counts[kind] == pytest.approx(BLOCK * weight, rel=0.01)


def make_plan(seed: int = 3, anchor: Anchor = Anchor(), documents: int = 230) -> SourcePlan:
    lengths = generator("lengths").integers(5, 60, documents).tolist()
    return SourcePlan("story", lengths, 128, 50, seed, anchor)


def test_an_epoch_reads_each_document_once_and_epochs_differ() -> None:
    plan = make_plan()
    seen: dict[int, list[int]] = {}
    for ordinal in range(600):
        position = plan.locate(ordinal)
        seen.setdefault(position.epoch, []).extend(plan.row(position))
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(230))
    assert seen[0] != seen[1]
    assert make_plan(seed=4).row(plan.locate(0)) != plan.row(plan.locate(0))


@given(st.integers(0, 900), st.integers(0, 900))
@settings(max_examples=40)
def test_a_plan_opened_at_a_cursor_agrees_with_one_from_the_beginning(start: int, further: int) -> None:
    whole = make_plan()
    resumed = make_plan(anchor=whole.anchor(start))
    position = whole.locate(start + further)
    assert resumed.locate(start + further) == position
    assert resumed.row(position) == whole.row(position)


def test_a_plan_does_not_pretend_to_know_what_lies_before_its_cursor() -> None:
    with pytest.raises(ValueError, match="before the cursor"):
        make_plan(anchor=make_plan().anchor(100)).locate(0)


def test_keys_are_apart_and_repeatable() -> None:
    assert generator("a", "b").random() != generator("ab").random()
    assert generator(1, "x").random() == generator("1", "x").random()
    assert np.array_equal(generator(0, "n").standard_normal(5), generator(0, "n").standard_normal(5))
