"""Speed of `prepare` on a folder of JPEGs, and what a second process adds: `python -m benchmarks.preparation [--quick] [--json FILE]`.

Each document is a photograph-like picture of 640x480 pixels with a sentence; reading, checking (every picture is decoded), hashing, packing
into shards, fitting the tokenizer, counting tokens and writing the index are all in the time, and so is the start of the processes.
"""

from __future__ import annotations

import hashlib
import io
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.record import Row, median_row, options, publish
from components.data.preparation.assembly import Assembly
from components.data.preparation.executors import open_crew
from components.data.preparation.inputs import corpora
from components.data.preparation.progress import Progress
from components.params import DataParams, load
from components.run.events import EventWriter

ROOT = Path(__file__).resolve().parents[1]
INPUT_SHARDS, PICTURES, SIZE = 16, 64, (640, 480)
CASE = f"JPEGs of {SIZE[0]}x{SIZE[1]}"
CHECK = "every document is in the index, and 0, 1 and 2 processes give the same bytes"


@dataclass(frozen=True)
class Preparation:
    """One preparation: its wall time, the processor time of this process, the bytes of its shards and a digest of all it wrote."""

    seconds: float
    core_seconds: float
    megabytes: float
    digest: str


def main() -> None:
    asked = options("speed of preparing data")
    documents = 480 if asked.quick else 4800
    with tempfile.TemporaryDirectory(prefix="mmfs preparation ") as folder:
        data = write_input(Path(folder) / "input" / "folder", documents)
        here, one, two = [], [], []
        for _ in range(asked.repetitions):
            here.append(prepare(Path(folder), data, 0, documents))
            one.append(prepare(Path(folder), data, 1, documents))
            two.append(prepare(Path(folder), data, 2, documents))
    if len({made.digest for made in (*here, *one, *two)}) > 1:
        raise RuntimeError("the outs depend on the number of processes: no number")
    publish("preparation", rows(documents, here, one, two), asked)


def rows(documents: int, here: list[Preparation], one: list[Preparation], two: list[Preparation]) -> list[Row]:
    """The table. Time of a core is the processor's, whatever else runs; the rest is of the clock on the wall."""
    per_second = [documents / made.seconds for made in one]
    both = [documents / made.seconds for made in two]
    scaling = statistics.median(both) / statistics.median(per_second)
    return [
        median_row(CASE, "a core", [documents / made.core_seconds for made in here], "documents/s", CHECK),
        median_row(CASE, "a core", [made.megabytes / made.core_seconds for made in here], "MB/s", CHECK),
        median_row(CASE, "1 process", per_second, "documents/s", CHECK),
        median_row(CASE, "1 process", [made.megabytes / made.seconds for made in one], "MB/s", CHECK),
        median_row(CASE, "2 processes", both, "documents/s", CHECK),
        median_row(CASE, "2 processes", [made.megabytes / made.seconds for made in two], "MB/s", CHECK),
        Row(CASE, "2 processes against 1", scaling, "times", CHECK),
    ]


def prepare(folder: Path, data: DataParams, workers: int, documents: int) -> Preparation:
    """Prepare in an empty work folder. Raises RuntimeError where a document is missing."""
    with tempfile.TemporaryDirectory(dir=folder) as body:
        found = corpora(data, 0, folder / "input")
        progress = Progress(EventWriter(None), lambda points: None, INPUT_SHARDS)
        start, used = time.perf_counter(), time.process_time()
        with open_crew(workers, None, data.shard_timeout_s, lambda number, size: None) as crew:
            made = Assembly(data, 0, found, Path(body), crew, progress).run(None)
        seconds, core_seconds = time.perf_counter() - start, time.process_time() - used
        if made.metrics["train_documents"] != documents or made.metrics["quarantined"]:
            raise RuntimeError(f"not every document was prepared: {made.metrics}")
        files = sorted(file for made_in in (made.shards, made.index) for file in made_in.rglob("*") if file.is_file())
        size = sum(file.stat().st_size for file in made.shards.iterdir()) / 1e6
        digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
        return Preparation(seconds, core_seconds, size, digest)


def write_input(folder: Path, documents: int) -> DataParams:
    """A data folder of INPUT_SHARDS files of documents, and the parameters that name it."""
    (folder / "pictures").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        (folder / "pictures" / f"{number}.jpg").write_bytes(_photograph(random))
    per_file = documents // INPUT_SHARDS
    for shard in range(INPUT_SHARDS):
        lines = [json.dumps(_document(number)) + "\n" for number in range(shard * per_file, (shard + 1) * per_file)]
        (folder / f"documents-{shard:03d}.jsonl").write_text("".join(lines), encoding="utf-8")
    known = load(ROOT / "params.yaml").data.model_dump()
    return DataParams.model_validate(known | {"source": "folder", "path": str(folder)})


def _photograph(random: np.random.Generator) -> bytes:
    """Large soft shapes and fine noise, which a JPEG of quality 85 takes about 60 kB for, as it does for a photograph."""
    soft = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    noisy = np.asarray(soft, np.float32) + random.normal(0, 8, (SIZE[1], SIZE[0], 1))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def _document(number: int) -> dict[str, object]:
    words = f"photograph number {number} shows soft colours and a little noise , taken on day {number % 365} of the year ."
    return {
        "id": f"photograph-{number}",
        "source": "photographs",
        "kind": "caption",
        "split": "train",
        "licence": "CC0-1.0",
        "origin": "automated",
        "items": [{"type": "image", "id": "0", "path": f"pictures/{number % PICTURES}.jpg"}, {"type": "text", "text": words}],
        "fields": {"references": [words]},
    }


if __name__ == "__main__":
    main()
