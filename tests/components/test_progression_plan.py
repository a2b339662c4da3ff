"""Levels in the plan: no document above the level, a floor of easy ones, and the same rows wherever a training was stopped."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_world import made_index, row

from components.data.cursor import Cursor
from components.data.documents import CorpusError
from components.data.index import Index
from components.data.keyed import generator
from components.data.measure import Measure
from components.data.row import IMAGE
from components.data.stream import TrainStream
from components.params import TrainParams
from components.progression.levels import bucket_of, shares
from components.progression_params import LevelParams
from model.presets import preset

SHAPE = preset("smoke", vocab_size=300).shape
LEVELS = [{"max_images": 1, "max_tokens": 24}, {"max_images": 3, "max_tokens": 60}, {"max_images": 6}]
MARKS = {"text_loss": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, which are all easy, and documents of one to eight images, some longer than a row and some above every level."""
    draw = generator("levels")
    rows = [row(f"p{number}", [IMAGE, int(draw.integers(3, 12))], "pairs", "caption") for number in range(60)]
    for number in range(160):
        items = [part for _ in range(draw.integers(1, 9)) for part in (int(draw.integers(1, 9)), IMAGE)]
        rows.append(row(f"w{number}", items, "web", "interleaved"))
    folder = tmp_path_factory.mktemp("levels") / "index"
    made_index(folder, rows)
    return folder


def train(mode: str = "competence", **differs: Any) -> TrainParams:
    progression = {"mode": mode, "levels": LEVELS, "mastered": MARKS, "steps": [0, 7, 15]} | differs
    mixture = {"pairs": 1, "web": 3}
    values = {"steps": 50, "rows_per_step": 8, "row_tokens": 64, "learning_rate": 1, "mixture": mixture, "progression": progression}
    values["validation"] = {"every_steps": 5}
    return TrainParams.model_validate(values)


def open_stream(folder: Path, params: TrainParams, cursor: Cursor = Cursor()) -> TrainStream:
    return TrainStream(folder, folder, params, SHAPE, 3, window_documents=20, cursor=cursor)


def buckets(stream: TrainStream, step: int) -> list[np.ndarray]:
    """Of each row of a step the buckets of its documents."""
    measure = Measure(stream.index, SHAPE.num_visual_tokens)
    levels = [LevelParams(**level) for level in LEVELS]
    documents = [np.array([segment.document for segment in planned.segments]) for planned in stream.plan(step)]
    return [bucket_of(measure.images(own), measure.lengths(own), levels) for own in documents]


@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from([-1, 1])), max_size=5),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from([0, 0, 24]),
)
@settings(max_examples=10, deadline=None)
def test_a_training_stopped_anywhere_goes_on_with_the_same_rows(
    folder: Path, moves: list[tuple[int, int]], stops: list[int], skip: int
) -> None:
    """Moves become known step by step, as a controller makes them; each takes effect one step after it was made."""
    decided: dict[int, int] = {}
    step = level = 0
    for wait, change in moves:
        step, level = step + wait, min(max(level + change, 0), 2)
        decided[step] = level
    last = sum(stops)

    def run(stream: TrainStream, first: int, end: int) -> list[Any]:
        seen = []
        for number in range(first, end):
            if number in decided:
                stream.move(number + 1, decided[number])
            seen.append(stream.plan(number))
        return seen

    whole = run(open_stream(folder, train()), 0, last + 6)
    stream, first, seen = open_stream(folder, train()), 0, []
    for steps in stops:
        seen += run(stream, first, first + steps)
        first += steps
        if first in decided:  # a checkpoint is written after the decision of its step
            stream.move(first + 1, decided[first])
        stream = open_stream(folder, train(), Cursor.from_dict(json.loads(json.dumps(stream.cursor(first).to_dict()))))
    seen += run(stream, first, last + 6)
    assert seen == whole
    if skip:
        again = open_stream(folder, train(), Cursor.from_dict(stream.cursor(last + 2, skip_rows=skip).to_dict()))
        assert again.plan(last + 3) == again.plan(last + 3)
        reopened = open_stream(folder, train(), Cursor.from_dict(again.cursor(last + 4).to_dict()))
        assert reopened.plan(last + 5) == again.plan(last + 5)


@pytest.mark.parametrize("mode", ["fixed", "competence"])
def test_no_document_above_the_level_is_drawn_and_easy_ones_keep_their_share(folder: Path, mode: str) -> None:
    params = train(mode, floor=0.4)
    stream = open_stream(folder, params)
    assert stream.beyond["pairs"] == 0 < stream.beyond["web"]
    found: dict[int, Counter[int]] = {level: Counter() for level in range(3)}
    level = 0
    for step in range(150):
        if mode == "competence" and step in (40, 80):
            stream.move(step + 1, level + 1)
        expected = (step >= 7) + (step >= 15) if mode == "fixed" else (step > 40) + (step > 80)
        level = stream.level(step)
        assert level == expected
        for own in buckets(stream, step):
            assert own.max() <= level
            assert len(set(own.tolist())) == 1, "a row holds documents of one bucket"
            found[level][int(own[0])] += 1
    assert set(found[2]) == {0, 1, 2}
    for level in (1, 2):
        easy = sum(count for bucket, count in found[level].items() if bucket < level) / found[level].total()
        assert easy > 0.35, (level, easy)
    names = Counter(planned.name for step in range(150) for planned in stream.plan(step))
    assert set(names) == {"pairs", "web"}, "a bucket goes by the name of its source"


def test_over_a_block_of_draws_the_floor_holds_exactly(folder: Path) -> None:
    stream = open_stream(folder, train("fixed", steps=[0, 1, 2], floor=0.9))
    rows = [int(own[0]) for step in range(128, 256) for own in buckets(stream, step)]
    assert len(rows) == 1024
    assert sum(bucket < 2 for bucket in rows) == pytest.approx(0.9 * 1024, abs=1), "to the nearest draw"


@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.lists(st.integers(0, 1000), min_size=3, max_size=3)), min_size=1, max_size=4),
    st.integers(0, 2),
    st.floats(0, 0.9),
)
def test_shares_keep_the_floor_and_the_weights(sources: list[tuple[float, list[int]]], level: int, floor: float) -> None:
    weights = {str(number): weight for number, (weight, _) in enumerate(sources)}
    tokens = {str(number): own for number, (_, own) in enumerate(sources)}
    found = shares(weights, tokens, level, floor)
    opened = {name for name, own in tokens.items() if sum(own[: level + 1])}
    total = sum(found.values())
    assert total == pytest.approx(sum(weights[name] for name in opened))
    assert all(value == 0 for (_, bucket), value in found.items() if bucket > level)
    assert all(value == 0 for (name, bucket), value in found.items() if not tokens[name][bucket])
    easy = sum(value for (_, bucket), value in found.items() if bucket < level)
    if easy and easy < total:
        assert easy >= floor * total * (1 - 1e-9)
    if not floor:
        own = {name: sum(found[name, bucket] for bucket in range(3)) for name in opened}
        assert own == pytest.approx({name: weights[name] for name in opened}), "without a floor a name keeps its weight"


def test_a_move_that_would_change_rows_of_the_past_is_refused(folder: Path) -> None:
    stream = open_stream(folder, train())
    stream.move(5, 1)
    stream.move(5, 1)
    with pytest.raises(ValueError, match="steps from 5 on"):
        stream.move(5, 2)
    with pytest.raises(ValueError, match="steps from 5 on"):
        stream.move(3, 2)
    with pytest.raises(CorpusError, match="damaged"):
        Cursor.from_dict(stream.cursor(4).to_dict() | {"moves": [[1]]})


def test_a_cursor_of_the_version_before_goes_on(folder: Path) -> None:
    values = open_stream(folder, train("none")).cursor(9).to_dict()
    older = {name: value for name, value in values.items() if name != "moves"} | {"version": 2}
    assert Cursor.from_dict(older) == Cursor.from_dict(values)


def test_a_first_level_without_documents_is_named(folder: Path) -> None:
    with pytest.raises(CorpusError, match=r"progression.levels\[0\]"):
        open_stream(folder, train(levels=[{"max_tokens": 3}, {}]))


def test_all_documents_of_the_last_level_are_read_once_an_epoch(folder: Path) -> None:
    index = Index(folder)
    stream = open_stream(folder, train("fixed", steps=[0, 1, 2], levels=[{"max_images": 1}, {"max_images": 3}, {}]))
    seen: Counter[tuple[str, int]] = Counter()
    for step in range(120):
        for planned in stream.plan(step):
            seen.update((index.row(one.document).id, one.epoch) for one in planned.segments if one.begin == 0)
    assert len({document for document, _ in seen}) == len(index)
    assert set(seen.values()) == {1}


@pytest.mark.parametrize(
    ("differs", "told"),
    [
        ({"levels": LEVELS[:1]}, "at least two"),
        ({"levels": [{"max_images": 3}, {"max_images": 1}]}, "not be below"),
        ({"levels": [{}, {"max_tokens": 9}]}, "not be below"),
        ({"levels": [{"max_images": 3}, {"max_images": 3}]}, "allows nothing"),
        ({"mode": "fixed", "steps": [0, 5]}, "3 ascending steps"),
        ({"mode": "fixed", "steps": [1, 5, 9]}, "3 ascending steps"),
        ({"mastered": {}}, "needs progression.mastered"),
        ({"mastered": {"fluency": 1}}, "mastered"),
    ],
)
def test_what_fits_not_together_is_named(differs: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        train(**{"mode": "competence"} | differs)


@pytest.mark.parametrize(
    ("differs", "told"), [({"mixture": {"web": [[0, 1], [9, 2]]}}, "is a course"), ({"few_shot": {"probability": 0.1}}, "rows_of")]
)
def test_what_levels_cannot_do_is_named(differs: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainParams.model_validate(train().model_dump() | differs)
