"""Stage `prepare`: same input, same bytes; hostile input is quarantined with its reason."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from preparation_world import run, tree

from components.data.index import Index
from components.data.pictures import encode_png
from components.data.sources.digits import export_digits
from components.data.sources.folder import FolderSource
from components.data.sources.source import Limits, Rejected
from components.params import COMPOSED_KINDS, CorpusParams, DataParams
from components.run.failures import FailureClass, StageError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "folder"


def small(**changes: Any) -> DataParams:
    return DataParams(
        **{"documents": dict.fromkeys(COMPOSED_KINDS, 5), "evaluation_documents": dict.fromkeys(COMPOSED_KINDS, 2), "shard_documents": 2}
        | changes
    )


def test_the_same_input_gives_the_same_bytes_also_after_a_kill(tmp_path: Path) -> None:
    for name in ("one", "two words"):
        export_digits(tmp_path / name / "data/input/digits")
        leftover = tmp_path / name / "work/body/shards/train-caption-00000.tar"
        leftover.parent.mkdir(parents=True)
        leftover.write_bytes(name.encode())
        result = run(tmp_path / name, small())
        assert result.documents == 7 * len(COMPOSED_KINDS)
        assert result.quarantined == 0
    assert tree(tmp_path / "one/outputs") == tree(tmp_path / "two words/outputs")


def test_any_tool_reads_the_shards_and_the_index_knows_where_everything_is(tmp_path: Path) -> None:
    export_digits(tmp_path / "data/input/digits")
    run(tmp_path, small())
    index = Index(tmp_path / "outputs/index")
    assert {"train", "evaluation"} == {
        row.split for kind in COMPOSED_KINDS for split in ("train", "evaluation") for row in index.rows(split, kind)
    }
    story = index.rows("train", "story")[3]
    assert story.shard == "digits-train-story-00001.tar"
    with tarfile.open(tmp_path / "outputs/shards" / story.shard) as tar:
        names = tar.getnames()
        assert names[6:8] == [f"{story.id}.json", f"{story.id}.0.png"]
        assert tar.getmember(names[6]).offset == story.offset
        document = json.load(cast(io.BufferedReader, tar.extractfile(names[6])))
        assert document["id"] == story.id
        assert Image.open(cast(io.BufferedReader, tar.extractfile(names[7]))).size == story.images[0]
        assert {(member.mtime, member.uid, member.mode) for member in tar.getmembers()} == {(0, 0, 0o644)}
    for name, shard in index.shards.items():
        data = (tmp_path / "outputs/shards" / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest()) == (shard.size, shard.sha256, shard.md5)
    metrics = json.loads((tmp_path / "outputs/index/metrics.json").read_text())
    assert metrics["train_documents"] == 5 * len(COMPOSED_KINDS)


def test_missing_scans_are_bad_data_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"components.version") as error:
        run(tmp_path, small())
    assert error.value.failure is FailureClass.BAD_DATA
    assert not (tmp_path / "outputs").exists()


def line(**changes: Any) -> str:
    document = {
        "id": "good",
        "source": "mine",
        "kind": "caption",
        "split": "train",
        "licence": "CC0-1.0",
        "origin": "human",
        "items": [{"type": "image", "id": "0", "path": "good.png"}, {"type": "text", "text": "a grey square ."}],
        "prompt_items": 1,
        "fields": {"references": ["a grey square ."]},
    }
    return json.dumps(document | changes)


def image(path: str, **changes: Any) -> list[dict[str, Any]]:
    return [{"type": "image", "id": "0", "path": path} | changes, {"type": "text", "text": "a grey square ."}]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with one good document and one of every sort of bad one."""
    folder = tmp_path / "data/input/folder"
    folder.mkdir(parents=True)
    png = encode_png(np.full((20, 30, 3), 99, np.uint8))
    (folder / "good.png").write_bytes(png)
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    size = b"IHDR" + struct.pack(">II", 30_000, 30_000) + png[24:29]
    (folder / "bomb.png").write_bytes(png[:12] + size + struct.pack(">I", zlib.crc32(size)) + png[33:])
    (tmp_path / "secret.png").write_bytes(png)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(folder / "fifo.png")
    reference = {"phrase": "it", "box": [0, 0, 31, 20]}
    lines = [
        line(),
        line(id="a") + "}",
        line(id="b", licence=None),
        line(id="c", items=image("cut.png")),
        line(id="d", items=image("text.png")),
        line(id="e", items=image("empty.png")),
        line(id="f", items=image("bomb.png")),
        line(id="g", items=image("link.png")),
        line(id="h", items=image("fifo.png")),
        line(id="i", items=image("absent.png")),
        line(id="j", items=image("../../secret.png")),
        line(id="k", fields={"references": ["x"], "score": float("nan")}),
        line(),
        line(id="l", items=image("good.png", sha256="0" * 64)),
        line(id="m", kind="referring", fields=reference),
        "x" * 10_000_001,
        line(id="n", items=image("good.png\0")),
        line(id="o", fields={"references": ["x"], "scenes": []}),
    ]
    (folder / "documents.jsonl").write_bytes("\n".join(lines).encode() + b'\n\xff\xfe\n\n{"id": "cut of')
    return folder


def test_every_hostile_document_is_quarantined_with_its_reason(hostile: Path) -> None:
    source = FolderSource(CorpusParams(name="folder", format="documents"), hostile, Limits(1_000_000, 1_000_000, 100))
    samples = list(source.documents(source.units()[0]))
    reasons = {one.where: one.reason for one in samples if isinstance(one, Rejected)}
    assert len(samples) - len(reasons) == 1
    expected = (
        "not JSON", "licence", "unreadable", "not a PNG", "not a PNG", "bomb.png", "leads out", "no regular file", "cannot be opened",
        "must be relative", "NaN", "used before", "sha256", "out of its 30x20", "longer than", "must be relative",
        "fields.scenes", "not UTF-8",
    )  # fmt: skip
    for number, reason in enumerate(expected, 2):
        assert reason in reasons[f"documents.jsonl:{number}"]
    assert "not JSON" in reasons["documents.jsonl:21"]


def test_quarantine_is_counted_and_fails_only_over_the_rate(tmp_path: Path, hostile: Path) -> None:
    data = small(source="folder", path="data/input/folder", max_image_pixels=1_000_000)
    with pytest.raises(StageError, match=r"19 of 20 documents are unusable.*documents.jsonl:2: not JSON") as error:
        run(tmp_path, data)
    assert error.value.failure is FailureClass.BAD_DATA
    assert not (tmp_path / "outputs").exists()
    result = run(tmp_path, data.model_copy(update={"max_quarantine_rate": 1.0}))
    assert (result.documents, result.quarantined) == (1, 19)
    assert result.metrics["quarantine_rate"] == pytest.approx(19 / 20, abs=1e-6)
    assert len((tmp_path / "outputs/index/quarantine.jsonl").read_text().splitlines()) == 19


def test_the_example_folder_is_accepted_whole(tmp_path: Path) -> None:
    (tmp_path / "data/input").mkdir(parents=True)
    (tmp_path / "data/input/folder").symlink_to(EXAMPLE)
    result = run(tmp_path, small(source="folder", path=str(EXAMPLE)))
    assert result.quarantined == 0
    index = Index(tmp_path / "outputs/index")
    assert set(index.kinds("train")) == set(COMPOSED_KINDS)
    assert result.documents == len((EXAMPLE / "documents.jsonl").read_text().splitlines())
