"""Levels with the real model's data: held-out targets belong to the level of their document, and a move changes the rows to come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_corpus import make_corpus
from training_world import World, train_params

from components.data.documents import TextItem
from components.data.index import Index
from components.data.measure import Measure
from components.data.places import ShardPlaces
from components.data.reader import evaluation_documents
from components.progression.levels import bucket_of
from components.run.failures import StageError
from components.training.fit import fit
from components.training.job import Job
from components.training.parts import mm_interleaved
from model.batch import InterleavedBatch
from model.presets import preset

LEVELS = [{"max_images": 1}, {"max_images": 3}, {}]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    make_corpus(root, 12)
    return root


def job(corpus: Path, **differs: Any) -> Job:
    mixture = {"caption": 1, "decompose": 1, "story": 1}
    progression = {"mode": "competence", "levels": LEVELS, "mastered": {"text_loss": 1.0}}
    train = train_params(row_tokens=128, mixture=mixture, validation={"every_steps": 2}, progression=progression | differs, ranks=1)
    config = preset("smoke", vocab_size=Index(corpus / "index").tokenizer.vocab_size)
    changes = {
        "index": corpus / "index",
        "shards": ShardPlaces(folder=corpus / "shards"),
        "model": config.to_dict(),
        "window_documents": 64,
    }
    return World(corpus, train, {}).job().model_copy(update=changes)


def test_held_out_targets_belong_to_the_level_of_their_document_and_moves_to_the_rows_after_them(corpus: Path) -> None:
    network, batch_of, _, cursor_of, held_out, levels = mm_interleaved(job(corpus))
    assert held_out is not None and levels is not None
    assert held_out.buckets == (0, 1, 2)
    texts, pictures = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    for batch, _ in held_out.batches(0, 1):
        texts += batch.text_bucket.bincount(minlength=3)
        pictures += batch.image_bucket[batch.image_counted].bincount(minlength=3)
    documents = [
        one for kind in ("caption", "decompose", "story") for one in evaluation_documents(corpus / "index", corpus / "shards", kind, 2)
    ]
    expected = torch.zeros(3, dtype=torch.int64)
    for loaded in documents:
        images = len(loaded.document.images)
        level = 0 if images <= 1 else 1 if images <= 3 else 2
        trained = [
            len(levels.index.tokenizer.encode(one.text)) if isinstance(one, TextItem) else 1 for one in loaded.document.items if one.loss
        ]
        expected[level] += sum(trained) + loaded.document.items[-1].loss
    assert texts[1:].tolist() == expected[1:].tolist()  # a caption's picture may stand before it, where it has no target
    assert texts[0] > 0
    assert (pictures[1:] > 0).all()
    measure = Measure(levels.index, network.config.shape.num_visual_tokens)

    def highest(step: int) -> int:
        rows = levels.plan(step)
        own = np.array([one.document for row in rows for one in row.segments])
        return int(bucket_of(measure.images(own), measure.lengths(own), job(corpus).train.progression.levels).max())

    levels.move(2, 1)
    levels.move(4, 2)
    assert [highest(step) for step in range(1, 6)] == [0, 1, 1, 2, 2]
    assert cursor_of(3)["moves"] == [[2, 1], [4, 2]]
    (rows, _), _ = batch_of(1, 0, 1, 0)
    assert isinstance(rows, InterleavedBatch)
    assert len(rows.images) == int(rows.document_ids.max(1).values.sum()), "one picture a document"


def test_a_level_without_held_out_documents_is_named(corpus: Path) -> None:
    with pytest.raises(StageError, match=r"no held-out document is of progression.levels\[1\]"):
        mm_interleaved(job(corpus, levels=[{"max_images": 1}, {"max_images": 2}, {}]))


def test_levels_that_nothing_draws_by_are_an_error(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    network, batch_of, save, cursor_of, held_out, _ = mm_interleaved(job(corpus))
    with pytest.raises(ValueError, match="nothing that draws rows by levels"):
        fit(job(corpus), network, batch_of, save, cursor_of, held_out)
