"""Stopping anywhere and going on reads nothing twice and leaves nothing out, whatever the packing, the ranks and the workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_world import made_index, row
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from components.data.cursor import CURSOR_VERSION, Cursor
from components.data.documents import CorpusError
from components.data.index import Index
from components.data.keyed import generator
from components.data.row import IMAGE
from components.data.stream import PlannedRow, TrainStream
from components.params import TrainParams
from model.presets import preset

SHAPE = preset("smoke", vocab_size=300).shape
MIXTURE = {"mmc4": [[0, 0.5], [20, 2.0]], "laion": 1.0, "vqa/question": 0.5}
VARIANTS = {
    "best fit": {},
    "concatenated": {"packing": "concatenate_split", "max_images_per_row": {"laion": 5, "mmc4": 2}},
    "few shots": {"few_shot": {"probability": 0.4}, "max_images_per_row": {"laion": 6}},
    "any": {"rows_of": "any", "mixture": {"mmc4": 2, "laion": 1, "vqa/question": 0.5}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MMC4-like documents, some longer than a row, pairs and questions."""
    draw = generator("cursor")
    rows = [
        row(
            f"m{number}",
            [IMAGE if draw.random() < 0.4 else int(draw.integers(1, 30)) for _ in range(draw.integers(1, 7))],
            "mmc4",
            "matched",
        )
        for number in range(90)
    ]
    rows += [row(f"l{number}", [IMAGE, int(draw.integers(3, 12))], "laion", "caption") for number in range(130)]
    rows += [row(f"q{number}", [IMAGE, 5, int(draw.integers(1, 4))], "vqa", "question", given=(0, 1)) for number in range(40)]
    folder = tmp_path_factory.mktemp("cursor") / "index"
    made_index(folder, rows)
    return folder


def train(**differs: Any) -> TrainParams:
    values = {"steps": 50, "rows_per_step": 8, "row_tokens": 64, "learning_rate": 1, "mixture": MIXTURE}
    return TrainParams.model_validate(values | differs)


def open_stream(folder: Path, params: TrainParams, cursor: Cursor = Cursor(), seed: int = 0) -> TrainStream:
    return TrainStream(folder, folder, params, SHAPE, seed, window_documents=20, cursor=cursor)


@pytest.mark.parametrize("variant", VARIANTS)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([0, 0, 3, 16]))
@settings(max_examples=8, deadline=None)
def test_stopping_after_any_step_changes_nothing(folder: Path, variant: str, stops: list[int], skip: int) -> None:
    params = train(**VARIANTS[variant])
    whole = open_stream(folder, params)
    stream, step = open_stream(folder, params), 0
    for steps in stops:
        assert [stream.plan(step + number) for number in range(steps)] == [whole.plan(step + number) for number in range(steps)]
        step += steps
        cursor = Cursor.from_dict(stream.cursor(step).to_dict())
        assert (cursor.step, cursor.rows) == (step, 8 * step)
        stream = open_stream(folder, params, cursor)
    assert stream.plan(step) == whole.plan(step)
    if skip:
        stream = open_stream(folder, params, Cursor.from_dict(stream.cursor(step, skip_rows=skip).to_dict()))
        further = [planned for number in range(step, step + 6) for planned in whole.plan(number)]
        assert [planned for number in range(step, step + 3) for planned in stream.plan(number)] == further[skip : skip + 24]
        resumed = open_stream(folder, params, stream.cursor(step + 2))
        assert resumed.plan(step + 2) == stream.plan(step + 2), "what was skipped stays skipped"
    with pytest.raises(ValueError, match=f"step {step - 1} lies before the cursor"):
        stream.plan(step - 1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_epoch_is_whole_and_no_document_comes_twice(folder: Path, variant: str) -> None:
    params = train(**VARIANTS[variant])
    stream = open_stream(folder, params)
    parts: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for step in range(60):
        for planned in stream.plan(step):
            for segment in planned.segments:
                parts.setdefault((segment.epoch, segment.document), []).append((segment.begin, segment.end))
    first = {document: own for (epoch, document), own in parts.items() if epoch == 0}
    assert first.keys() == set(range(260))
    assert all(len(set(own)) == len(own) for own in parts.values())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_rows_of_a_step(folder: Path, variant: str, ranks: int) -> None:
    stream = open_stream(folder, train(**VARIANTS[variant]))
    for step in (0, 7):
        dealt = [planned for rank in range(ranks) for planned in stream.rows(step, rank, ranks)]
        assert sorted(dealt, key=repr) == sorted(stream.plan(step), key=repr)


class Steps(IterableDataset[list[PlannedRow]]):
    """A rank's rows, step by step, dealt out to the workers of a loader."""

    def __init__(self, folder: Path, start: Cursor, steps: int, rank: int) -> None:
        self._folder, self._start, self._steps, self._rank = folder, start, steps, rank

    def __iter__(self) -> Iterator[list[PlannedRow]]:
        stream, worker = open_stream(self._folder, train(), self._start), get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self._start.step + first, self._start.step + self._steps, stride):
            yield stream.rows(step, self._rank, 2)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_reads_the_same_rows(folder: Path, workers: int) -> None:
    stream = open_stream(folder, train())
    cursor = stream.cursor(4)
    found = list(DataLoader(Steps(folder, cursor, 7, 1), batch_size=None, num_workers=workers))
    assert found == [stream.rows(step, 1, 2) for step in range(4, 11)]


def test_another_mixture_leaves_the_rows_of_every_source_as_they_are(folder: Path, tmp_path: Path) -> None:
    def rows_by_source(stream: TrainStream, steps: int) -> dict[str, list[list[tuple[str, int, int, int]]]]:
        found: dict[str, list[list[tuple[str, int, int, int]]]] = {}
        for step in range(steps):
            for planned in stream.plan(step):
                ids = [(stream.index.row(one.document).id, one.epoch, one.begin, one.end) for one in planned.segments]
                found.setdefault(planned.name, []).append(ids)
        return found

    before = rows_by_source(open_stream(folder, train()), 30)
    index = Index(folder)
    more = [row(f"n{number}", [IMAGE, 9], "new", "caption") for number in range(30)]
    made_index(tmp_path / "index", [*more, *(index.row(number) for number in range(len(index)))])
    after = rows_by_source(open_stream(tmp_path / "index", train(mixture={"new": 3, "laion": 1, "mmc4": 0.2})), 30)
    for name in ("laion", "mmc4"):
        shared = min(len(before[name]), len(after[name]))
        assert shared > 5
        assert before[name][:shared] == after[name][:shared]


def test_a_run_goes_on_under_another_mixture_where_each_source_stands(folder: Path) -> None:
    stream = open_stream(folder, train())
    cursor = stream.cursor(10)
    after = open_stream(folder, train(mixture={"laion": 1.0}), cursor)
    rows = [planned for step in range(40) for planned in stream.plan(step) if planned.name == "laion"]
    read = sum(planned.name == "laion" for step in range(10) for planned in stream.plan(step))
    assert after.plan(10) == rows[read : read + 8]
    assert after.cursor(12).places["mmc4"] == cursor.places["mmc4"], "a source that is not drawn now stands where it stood"


def test_a_million_steps_are_a_few_integers(folder: Path) -> None:
    params = train(steps=2_000_000)
    cursor = Cursor(1_000_000, 8_000_000, (), open_stream(folder, params).cursor(3).places)
    stream = open_stream(folder, params, cursor)
    assert len(stream.plan(1_000_000)) == 8
    assert len(repr(stream.cursor(1_000_001).to_dict())) < 300


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"version": 1, "start_row": 0, "anchors": {}}, "version 1: its order of training is one that this mmfs does not make any more"),
        ({"version": CURSOR_VERSION + 1}, "install a newer mmfs"),
        ({}, "version None"),
        ({"version": 2, "step": 1, "rows": 8, "skipped": [], "places": {"a": [1, 2]}}, None),
        ({"version": 2, "step": "x", "rows": 8, "skipped": [], "places": {}}, "damaged"),
        ({"version": 2, "step": 1, "rows": 8, "skipped": [3], "places": {}}, "damaged"),
    ],
)
def test_a_cursor_of_another_version_is_refused(values: dict[str, Any], told: str | None) -> None:
    if told is None:
        assert Cursor.from_dict(values).places["a"].row == 0
        return
    with pytest.raises(CorpusError, match=told):
        Cursor.from_dict(values)


@pytest.mark.parametrize(
    ("mixture", "told"),
    [
        ({"mmc5": 1}, r"mixture\.mmc5: the corpus has no training documents of that name; there are caption, matched, question, laion"),
        ({"caption": 1, "laion": 1}, r"mixture\.caption and mixture\.laion both name laion/caption"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_is_named(folder: Path, mixture: dict[str, float], told: str) -> None:
    with pytest.raises(CorpusError, match=told):
        open_stream(folder, train(mixture=mixture))


def test_rows_that_are_shorter_than_an_image_leave_out_what_shows_one_and_say_how_many(tmp_path: Path) -> None:
    made_index(tmp_path, [row("a", [IMAGE, 9]), row("b", [30]), row("c", [3]), row("d", [IMAGE, 1], "shown")])
    shape = replace(SHAPE, num_visual_tokens=20)
    stream = TrainStream(tmp_path, tmp_path, train(row_tokens=16, mixture={"made": 1}), shape, 0)
    assert stream.excluded == {"made": 1}
    assert {stream.index.row(one.document).id for planned in stream.plan(0) for one in planned.segments} == {"b", "c"}
    with pytest.raises(CorpusError, match=r"mixture\.shown: none of its 1 documents fits in a row of 16 tokens or can be cut"):
        TrainStream(tmp_path, tmp_path, train(row_tokens=16, mixture={"shown": 1}), shape, 0)
