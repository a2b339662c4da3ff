"""Packing, permutation, mixture and plan: arithmetic that every rank and every restart must agree on."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_world import made_index, row

from components.data.course import Course
from components.data.index import Index
from components.data.keyed import generator
from components.data.measure import Measure
from components.data.mixture import BLOCK, Mixture
from components.data.packing import pack
from components.data.packing_windows import MAX_CAPACITY, pack_windows
from components.data.permutation import Permutation
from components.data.plan import Place, SourcePlan
from components.data.segments import PackedWindow
from components.data.window_packer import Rules, WindowPacker
from components.data.windows import Epochs
from components.params import COMPOSED_KINDS

CAPACITY = 128


@given(st.lists(st.integers(1, 64), max_size=200))
def test_every_document_is_in_one_row_and_no_row_overflows(lengths: list[int]) -> None:
    rows = pack(lengths, 64)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[number] for number in row) <= 64 for row in rows)
    assert len(rows) <= 1.5 * max(1, -(-sum(lengths) // 64)) + 1  # best-fit decreasing needs at most 11/9 of the optimum + 1


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 3)), max_size=60), st.integers(3, 9))
def test_each_document_went_into_the_fullest_row_that_could_take_it(documents: list[tuple[int, int]], most: int) -> None:
    rows: list[tuple[int, int]] = []  # room for tokens, for images
    for length, images in sorted(documents, key=lambda one: -one[0]):
        fitting = [one for one in rows if one[0] >= length and one[1] >= images]
        room = min(fitting, default=(64, most), key=lambda one: one[0])
        if fitting:
            # of equally full rows any may be taken here, so only the fills are compared, and those without a limit
            rows.remove(room)
        rows.append((room[0] - length, room[1] - images))
    lengths, shown = [one[0] for one in documents], [one[1] for one in documents]
    packed = pack(lengths, 64, shown, most)
    assert all(sum(shown[number] for number in own) <= most for own in packed)
    if not any(shown):
        assert sorted(room for room, _ in rows) == sorted(64 - sum(lengths[number] for number in own) for own in packed)
        assert packed == pack(lengths, 64)


def test_what_fits_in_no_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="document 1 has 65 tokens"):
        pack([3, 65], 64)
    with pytest.raises(ValueError, match="document 1 has 5 images"):
        pack([3, 6], 64, [1, 5], 4)
    with pytest.raises(ValueError, match="3 to 65 tokens"):
        pack_windows(np.array([[3, 65]]), 64)


@given(st.integers(0, 99), st.integers(1, 70), st.sampled_from([1, 63, 64, 65, 200, 2048, MAX_CAPACITY, MAX_CAPACITY + 1]))
@settings(max_examples=40)
def test_windows_beside_each_other_are_packed_like_each_alone(seed: int, documents: int, capacity: int) -> None:
    draw = np.random.default_rng(seed)
    lengths = np.minimum(np.ceil(capacity * draw.exponential(draw.uniform(0.02, 0.6), (6, documents))), capacity).astype(np.int64)
    lengths[draw.random(lengths.shape) < 0.2] = 0
    together = pack_windows(lengths, capacity)
    for own, rows in zip(lengths, together, strict=True):
        present = np.flatnonzero(own)
        alone = np.full(documents, -1)
        for place, numbers in enumerate(pack(own[present].tolist(), capacity)):
            alone[present[numbers]] = place
        assert rows.tolist() == alone.tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 230, 1000, 65_537])
def test_a_permutation_has_everything_once(size: int) -> None:
    found = Permutation(size, "key", size)(np.arange(size))
    assert np.array_equal(np.sort(found), np.arange(size))
    assert size < 64 or not np.array_equal(found, Permutation(size, "other", size)(np.arange(size)))


@pytest.mark.parametrize("size", [6, 23, 256, 1000])
def test_a_permutation_is_mixed_like_a_drawn_one(size: int) -> None:
    """Where a thing lands, where two neighbours land, and how far apart: chi-squared of 4,000 keys over cells of equal probability."""
    keys = 4000
    places = np.array([Permutation(size, "mixed", key)(np.arange(2)) for key in range(keys)])
    cells = min(size, 20)
    for values, of in ((places[:, 0], size), (places[:, 1], size), ((places[:, 1] - places[:, 0]) % size - 1, size - 1)):
        seen = np.bincount(values * cells // of, minlength=cells)[: min(cells, of)]
        expected = np.bincount(np.arange(of) * cells // of)[: len(seen)] * keys / of
        assert ((seen - expected) ** 2 / expected).sum() < 2.5 * len(seen) + 12  # beyond the 0.9999 quantile for 5 to 20 cells


def test_one_permutation_of_a_hundred_million_is_without_pattern() -> None:
    size, count = 100_000_000, 1 << 16
    found = Permutation(size, 0, "epoch", "mmc4", 0)(np.arange(count))
    assert len(np.unique(found)) == count
    assert found.max() < size
    uniform = found / size
    assert abs(np.corrcoef(uniform[1:], uniform[:-1])[0, 1]) < 4 / count**0.5
    assert abs(np.corrcoef(uniform, np.arange(count))[0, 1]) < 4 / count**0.5
    seen = np.bincount((uniform * 100).astype(int), minlength=100)
    assert ((seen - count / 100) ** 2 / (count / 100)).sum() < 170
    runs = np.diff(np.flatnonzero(np.diff(np.sign(np.diff(uniform)))))  # turning points: two thirds of all places
    assert len(runs) == pytest.approx(2 / 3 * count, rel=0.01)


@given(st.dictionaries(st.sampled_from(COMPOSED_KINDS), st.floats(0.01, 10), min_size=1), st.integers(0, 3 * BLOCK), st.integers(0, 9))
@settings(max_examples=30)
def test_a_draw_knows_how_many_of_its_kind_came_before(weights: dict, number: int, seed: int) -> None:
    mixture = Mixture(weights, seed)
    counts = Counter(mixture.draw(earlier)[0] for earlier in range(number))
    assert {name: counts[name] for name in mixture.names} == mixture.before(number)
    name, ordinal = mixture.draw(number)
    assert ordinal == counts[name]


courses = st.lists(st.tuples(st.integers(0, 90), st.sampled_from([0, 0.5, 1, 3])), min_size=1, max_size=4).map(
    lambda points: tuple(dict(sorted(points)).items())
)


@given(courses, courses, st.integers(1, 40), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_a_draw_from_courses_knows_what_came_before_too(one: tuple, two: tuple, rows_per_step: int, seed: int) -> None:
    mixture = Mixture({"a": one, "b": two, "c": 0.5}, seed, rows_per_step)
    number = 100 * rows_per_step
    names, ordinals = mixture.draws(0, number)
    for place, name in enumerate(mixture.names):
        assert ordinals[names == place].tolist() == list(range(int((names == place).sum())))
        assert mixture.before(number)[name] == int((names == place).sum())
    for draw in range(0, number, 1 + number // 37):
        assert mixture.draw(draw) == (mixture.names[int(names[draw])], int(ordinals[draw]))


def test_proportions_are_those_of_the_weights() -> None:
    mixture = Mixture({"caption": 2, "story": 1, "question": 5, "style": 0}, 0)
    counts = mixture.before(8 * BLOCK)
    assert set(counts) == {"caption", "story", "question"}
    for kind, weight in {"caption": 2, "story": 1, "question": 5}.items():
        assert counts[kind] == pytest.approx(BLOCK * weight, rel=0.01)


def test_a_course_is_followed_step_by_step() -> None:
    staged = Mixture({"pairs": ((0, 1), (10, 1), (10, 0)), "mmc4": ((0, 0), (10, 0), (10, 1))}, 0, 16)
    assert {staged.draw(number)[0] for number in range(160)} == {"pairs"}
    assert {staged.draw(number)[0] for number in range(160, 2000)} == {"mmc4"}
    ramp = Mixture({"a": ((0, 0), (1000, 1)), "b": 1}, 0, 10)
    shares = [(ramp.before(10 * (step + 100))["a"] - ramp.before(10 * step)["a"]) / 1000 for step in range(0, 1200, 100)]
    wanted = Course(((0, 0), (1000, 1))).at(np.arange(50, 1250, 100))
    assert shares == pytest.approx((wanted / (1 + wanted)).tolist(), abs=0.02)


def test_far_draws_cost_no_more_than_near_ones() -> None:
    mixture = Mixture({"mmc4": ((0, 0), (1_000_000, 2)), "laion": 1, "cc12m": 1}, 0, 400)
    far = 400_000_000
    counts = mixture.before(far)
    assert sum(counts.values()) == far
    assert counts["mmc4"] == pytest.approx(400 * sum(2e-6 * step / (2 + 2e-6 * step) for step in range(0, 1_000_000, 100)) * 100, rel=0.001)
    name, ordinal = mixture.draw(far)
    assert ordinal == counts[name]


def test_weights_that_are_all_zero_at_once_are_named() -> None:
    with pytest.raises(ValueError, match="all weights are 0 at step 1"):
        Mixture({"a": ((0, 1), (10, 1), (10, 0)), "b": ((20, 0), (20, 1))}, 0, 8)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """230 documents of 5 to 59 tokens in a row."""
    lengths = generator("lengths").integers(3, 58, 230).tolist()
    return made_index(tmp_path_factory.mktemp("index"), [row(f"d{number}", [length]) for number, length in enumerate(lengths)])


def make_plan(index: Index, seed: int = 3, start: Place = Place(), window_documents: int = 50) -> SourcePlan:
    epochs = Epochs("made", index.select("train", "made"), window_documents, seed)
    return SourcePlan(epochs, WindowPacker(Measure(index, 4), Rules(CAPACITY)), start)


def test_an_epoch_reads_each_document_once_and_epochs_differ(index: Index) -> None:
    plan = make_plan(index)
    seen: dict[int, list[int]] = {}
    for ordinal in range(600):
        for segment in plan.row(plan.locate(ordinal)):
            seen.setdefault(segment.epoch, []).append(segment.document)
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(230))
    assert seen[0] != seen[1]
    other = make_plan(index, seed=4)
    assert other.row(other.locate(0)) != plan.row(plan.locate(0))


@given(st.integers(0, 900), st.integers(0, 900))
@settings(max_examples=40, deadline=None)
def test_a_plan_opened_at_a_place_agrees_with_one_from_the_beginning(index: Index, start: int, further: int) -> None:
    whole = make_plan(index)
    place = whole.locate(start)
    resumed = make_plan(index, start=place)
    assert resumed.locate(0) == place
    assert resumed.locate(further) == whole.locate(start + further)
    assert resumed.row(resumed.locate(further)) == whole.row(whole.locate(start + further))


def test_a_plan_does_not_pretend_to_know_what_lies_before_its_start(index: Index) -> None:
    with pytest.raises(ValueError, match="before the cursor"):
        make_plan(index, start=make_plan(index).locate(100)).locate(-1)


@pytest.mark.parametrize("window_documents", [2, 7])
def test_a_window_is_the_same_however_many_are_packed_with_it(index: Index, window_documents: int) -> None:
    """Read in order, windows are packed in ever larger groups, at last beside each other; out of order one by one."""
    forward = make_plan(index, window_documents=window_documents)
    windows = -(-230 // window_documents)
    in_order = [forward.window(epoch, window) for epoch in range(3) for window in range(windows)]
    for number in (3 * windows - 1, windows + 5, 70, 1, 0):
        alone = make_plan(index, window_documents=window_documents).window(*divmod(number, windows))
        assert rows_of(alone) == rows_of(in_order[number])


def rows_of(window: PackedWindow) -> list:
    return [window.row(number) for number in range(len(window))]


def test_rows_are_shuffled_and_so_is_what_is_in_them(tmp_path: Path) -> None:
    lengths = np.clip(np.exp(6.27 + 0.83 * generator("d3").standard_normal(4096)), 8, 2046).astype(int)
    index = made_index(tmp_path, [row(f"d{number}", [int(length)]) for number, length in enumerate(lengths)])
    epochs = Epochs("made", index.select("train", "made"), 1024, 0)
    window = SourcePlan(epochs, WindowPacker(Measure(index, 4), Rules(2048))).window(0, 0)
    filled = [[int(lengths[segment.document]) for segment in window.row(number)] for number in range(len(window))]
    assert sum(map(sum, filled)) + 2 * 1024 >= 0.995 * 2048 * len(window), "padding of at most half a percent"
    assert not any(segment.begin or not segment.whole for number in range(len(window)) for segment in window.row(number))
    descending = sum(one >= two for own in filled for one, two in pairwise(own)) / sum(len(own) - 1 for own in filled)
    assert 0.3 < descending < 0.7
    longest = [max(own) for own in filled]
    assert abs(np.corrcoef(longest[1:], longest[:-1])[0, 1]) < 4 / len(window) ** 0.5


def test_keys_are_apart_and_repeatable() -> None:
    assert generator("a", "b").random() != generator("ab").random()
    assert generator(1, "x").random() == generator("1", "x").random()
    assert np.array_equal(generator(0, "n").standard_normal(5), generator(0, "n").standard_normal(5))
