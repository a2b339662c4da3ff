"""Takedowns and traces: what saw a document follows from the plan, and what was taken down is in no further version."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from preparation_world import run
from tiny_line import SOURCE

from components.data.cursor import Cursor
from components.data.documents import CorpusError
from components.data.index import DROPPED_FILE, Index
from components.data.sightings import sightings
from components.data.stream import TrainStream
from components.data.takedowns import Takedown, add, read, taken_down
from components.params import DataParams, TrainParams
from components.training.course import COURSE_FILE, course_of
from model.presets import preset

EXAMPLE = SOURCE / "examples" / "folder"
TRAIN = TrainParams(steps=40, rows_per_step=4, row_tokens=256, mixture={"question": 1.0, "story": 2.0}, learning_rate=1e-3)


def takedown(document: str) -> Takedown:
    return Takedown(document=document, reason="asked for", by="somebody", time="2026-01-01T00:00:00+00:00")


def prepared(root: Path, *documents: str) -> Index:
    (root / "data/input").mkdir(parents=True)
    (root / "data/input/folder").symlink_to(EXAMPLE)
    add(root / "takedowns.jsonl", [takedown(one) for one in documents])
    run(root, DataParams(documents={}, evaluation_documents={}, source="folder", path=str(EXAMPLE), vocabulary_size=300))
    return Index(root / "outputs/index")


def ids(index: Index) -> set[str]:
    return {index.row(number).id for number in range(len(index))}


def test_what_was_taken_down_is_in_no_shard_and_no_index(tmp_path: Path) -> None:
    whole = prepared(tmp_path / "whole")
    gone = whole.rows("train", "story")[0].id
    without = prepared(tmp_path / "without", gone)
    assert ids(whole) - ids(without) == {gone} and not ids(without) - ids(whole)
    assert not any(gone.encode() in shard.read_bytes() for shard in (tmp_path / "without/outputs/shards").iterdir())
    dropped = [json.loads(line) for line in (without.folder / DROPPED_FILE).read_text().splitlines()]
    assert [(one["document"], one["filter"]) for one in dropped] == [(gone, "takedown")]


def test_sightings_are_the_rows_that_the_stream_gives(tmp_path: Path) -> None:
    index = prepared(tmp_path)
    shape = preset("smoke", vocab_size=index.tokenizer.vocab_size, pad_id=0, bos_id=1, eos_id=2).shape
    stream = TrainStream(index.folder, tmp_path / "outputs/shards", TRAIN, shape, seed=3, window_documents=4)
    for kind in ("question", "story"):
        for row in index.rows("train", kind):
            number = index.find(row.id)
            given = [
                (step, place)
                for step in range(TRAIN.steps)
                for place, planned in enumerate(stream.plan(step))
                if number in [segment.document for segment in planned.segments]
            ]
            found = sightings(index, TRAIN, shape.num_visual_tokens, 4, 3, row.id)
            assert given and [(one.step, one.row) for one in found] == given
            assert len({one.epoch for one in found}) > 1
    stream.close()
    unseen = [index.rows("train", "caption")[0].id, index.rows("evaluation", "story")[0].id, "nobody"]
    assert not any(sightings(index, TRAIN, shape.num_visual_tokens, 4, 3, one) for one in unseen)


def test_sightings_leave_out_what_a_rollback_left_out(tmp_path: Path) -> None:
    index = prepared(tmp_path)
    shape = preset("smoke", vocab_size=index.tokenizer.vocab_size, pad_id=0, bos_id=1, eos_id=2).shape
    course = Cursor().leaving_out(20, 32).leaving_out(60, 64)
    stream = TrainStream(index.folder, tmp_path / "outputs/shards", TRAIN, shape, seed=3, window_documents=4, cursor=course)
    plans = [[[one.document for one in planned.segments] for planned in stream.plan(step)] for step in range(TRAIN.steps)]
    (tmp_path / COURSE_FILE).write_text(json.dumps(stream.cursor(TRAIN.steps).to_dict()))
    stream.close()
    told = course_of(tmp_path, TRAIN)
    assert told is not None and Cursor.from_dict(json.loads(told)) == Cursor(skipped=course.skipped)
    moved = 0
    for row in index.rows("train", "story"):
        given = [(step, place) for step, rows in enumerate(plans) for place, numbers in enumerate(rows) if index.find(row.id) in numbers]
        arguments = (index, TRAIN, shape.num_visual_tokens, 4, 3, row.id)
        assert [(one.step, one.row) for one in sightings(*arguments, Cursor.from_dict(json.loads(told)))] == given
        moved += [(one.step, one.row) for one in sightings(*arguments)] != given
    assert moved, "without the course they are others"
    (tmp_path / COURSE_FILE).write_text(json.dumps(replace(course, skipped=()).to_dict()))
    assert course_of(tmp_path, TRAIN) is None, "it follows from the parameters"


def test_every_document_is_found_by_its_id(tmp_path: Path) -> None:
    index = prepared(tmp_path)
    assert [index.find(index.row(number).id) for number in range(len(index))] == list(range(len(index)))
    assert index.find("") is None and index.find(index.row(0).id + "x") is None


def test_a_damaged_record_of_takedowns_is_an_error_and_never_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "takedowns.jsonl"
    assert read(path) == []
    add(path, [takedown("a")])
    add(path, [takedown("b")])
    assert taken_down(path) == {"a", "b"}
    path.write_text(path.read_text()[:-20])
    for asked in (read, taken_down):
        with pytest.raises(CorpusError, match=r"takedowns.jsonl:2 is no takedown.*git checkout"):
            asked(path)
    with pytest.raises(CorpusError):
        add(path, [takedown("c")])
    path.write_text(takedown("a").model_copy(update={"version": 2}).model_dump_json())
    with pytest.raises(CorpusError, match="update mmfs"):
        read(path)
