"""Filters in the stage itself: rules of one document and of the whole corpus, and what is left to read of them."""

from __future__ import annotations

import json
from pathlib import Path

from filter_world import document, pair, picture
from preparation_world import Tracking, run, tree

from components.data.card.provenance import PROVENANCE_FILE
from components.data.index import DROPPED_FILE, Index
from components.data.sources.source import Accepted
from components.filter_params import FilterParams
from components.params import CorpusParams, DataParams


def write(folder: Path, accepted: list[Accepted]) -> None:
    """A corpus of the format `documents`."""
    folder.mkdir(parents=True)
    for one in accepted:
        for item, data in zip(one.document.images, one.images, strict=True):
            (folder / item.path).write_bytes(data)
    (folder / "documents.jsonl").write_text("".join(one.document.model_dump_json() + "\n" for one in accepted), encoding="utf-8")


def filtered() -> DataParams:
    rules = FilterParams(min_similarity=0.24, min_caption=10, drop_imageless=True, near_duplicate_bits=4)
    return DataParams(
        source="corpora", documents={}, evaluation_documents={}, max_quarantine_rate=0, vocabulary_size=300,
        corpora=(CorpusParams(name="web", format="documents", filters=rules),),
    )  # fmt: skip


def corpus(folder: Path) -> None:
    write(
        folder,
        [
            pair("good", "a long enough caption", picture(1)),
            pair("short", "tiny", picture(2)),
            pair("twin", "a long enough caption", picture(1)),
            document("web-1", ["first", (picture(3), {"similarity": 0.5}), "second", (picture(4), {"similarity": 0.1})]),
            document("web-2", ["alone", (picture(5), {"similarity": 0.1})]),
        ],
    )


def test_what_filters_drop_is_in_the_index_folder_the_metrics_and_an_mlflow_table(tmp_path: Path) -> None:
    corpus(tmp_path / "data/input/web")
    tracking = Tracking()
    result = run(tmp_path, filtered(), tracking=tracking)
    index = Index(tmp_path / "outputs/index")
    assert {row.id for kind in index.kinds("train") for row in index.rows("train", kind)} == {"good", "web-1"}
    assert index.rows("train", "matched")[0].images == ((16, 16),)
    dropped = [json.loads(line) for line in (index.folder / DROPPED_FILE).read_text().splitlines()]
    assert {(one["document"], one["filter"]) for one in dropped if one["image"] is None} == {
        ("short", "caption_length"), ("twin", "near_duplicate"), ("web-2", "imageless"),
    }  # fmt: skip
    assert [(one["document"], one["filter"]) for one in dropped if one["image"]] == [("web-1", "similarity"), ("web-2", "similarity")]
    assert result.metrics["filters/web/documents_in"] == 5 and result.metrics["filters/web/documents_out"] == 2
    assert result.metrics["dropped"] == 3 and result.quarantined == 0
    table = json.loads(tracking.artifacts["filters.json"])
    assert len(table["data"]) == len({row[table["columns"].index("filter")] for row in table["data"]}) == 4
    assert json.loads(tracking.tags["mlflow.loggedArtifacts"]) == [{"path": "filters.json", "type": "table"}]
    shares = json.loads((index.folder / PROVENANCE_FILE).read_text())["shares"]
    assert [(one["source"], one["origin"], one["documents"], one["images"]) for one in shares] == [("web", "natural", 2, 2)]


def test_a_filtered_corpus_has_the_same_bytes_on_any_number_of_workers(tmp_path: Path) -> None:
    for name, workers in (("alone", 0), ("two", 2)):
        corpus(tmp_path / name / "data/input/web")
        run(tmp_path / name, filtered(), workers)
    assert tree(tmp_path / "alone/outputs") == tree(tmp_path / "two/outputs")
