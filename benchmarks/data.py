"""The loader beside WebDataset and LitData on the same pictures, undecoded and decoded at 224, in turn; and its memory over a million
documents. The peers have two workers, as we have for decoding; undecoded they are shown without any too, as we read them.

`python -m benchmarks.data [--quick] [--json FILE]`; needs webdataset and litdata.

A loader's time runs from its first batches to its last, so that starting workers does not count; of all repetitions the shortest counts,
because what else a machine does only ever adds to one.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.loader_peers import Picture, litdata, need_peers, stacked, webdataset, write_litdata
from benchmarks.record import Goal, Row, options, publish
from components.data.documents import Document, ImageItem, TextItem
from components.data.index import Index, write_index
from components.data.index import Row as IndexRow
from components.data.keyed import generator
from components.data.loader import ahead
from components.data.pictures import decode
from components.data.reader import DocumentReader
from components.data.shards import ShardWriter
from components.data.tokenizer import Tokenizer, fit
from components.data.transforms import square

WORKERS, BATCH, PX = 2, 64, 224
WIDTH, HEIGHT = 500, 375
SHARD_DOCUMENTS = 256
ALONE = "undecoded, without workers"
Loader = Callable[[], Iterable[Any]]
TEXT = "a photo of a thing that nobody has seen"


def main() -> None:
    asked = options("data loading")
    need_peers()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), 256 if asked.quick else 2048, asked.repetitions, goals=not asked.quick)
        rows += memory(Path(folder), 20_000 if asked.quick else 1_000_000, goals=not asked.quick)
    publish("data", rows, asked)


def measure(folder: Path, count: int, repetitions: int, *, goals: bool) -> list[Row]:
    """Pictures a second of the three loaders, undecoded and decoded, and of decoding alone."""
    pictures = photographs(count)
    reader, order = prepared(folder / "ours", pictures)
    write_litdata(pictures, folder / "litdata")
    tars = folder / "ours" / "shards"
    given: dict[str, dict[str, Loader]] = {}
    for case, shown, workers in (("undecoded", None, WORKERS), (ALONE, None, 0), (f"JPEG at {PX}", to_square, WORKERS)):
        given[case] = {
            "mmfs": partial(ours, reader, order, shown),
            "webdataset": partial(webdataset, tars, BATCH, workers, shown),
            "litdata": partial(litdata, folder / "litdata", BATCH, workers, shown),
        }
    checks = {case: check(loaders, count) for case, loaders in given.items()}
    seconds: dict[tuple[str, str], list[float]] = {(case, name): [] for case, loaders in given.items() for name in loaders}
    alone: list[float] = []
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork"), _keep, (pictures,)) as pool:
        for _ in range(repetitions):
            for case, loaders in given.items():
                for name, loader in loaders.items():
                    seconds[case, name].append(per_picture(loader()))
            alone.append(_decoding(pool, count))
    rates = {key: 1 / min(values) for key, values in seconds.items()}
    size = sum(len(data) for _, data in pictures) // count // 1000
    rows = []
    least = {"undecoded": (1.2, 1.0), f"JPEG at {PX}": (1.0, 1.0)}
    for case in given:
        what = f"{WIDTH}x{HEIGHT}, {size} kB, {case}" + ("" if case == ALONE else f", {WORKERS} workers")
        for peer, goal in zip(("webdataset", "litdata"), least.get(case, (0.0, 0.0)), strict=True):
            rows.append(
                _row(what, f"pictures/s, peer {peer}", rates[case, "mmfs"], rates[case, peer], goal, checks[case], goals and case in least)
            )
        if case.startswith("JPEG"):
            rows.append(_row(what, "pictures/s, peer decoding alone", rates[case, "mmfs"], 1 / min(alone), 0.9, checks[case], goals))
    return rows


def ours(reader: DocumentReader, order: Sequence[IndexRow], shown: Callable[[bytes], torch.Tensor] | None) -> Iterator[Any]:
    """Our loader: documents in any order, every one verified and checked against its schema.

    Pictures are decoded by processes. Bytes alone are read here and now: handing them over would cost more than reading them.
    """

    def work(number: int) -> Any:
        samples: list[Any] = []
        for row in order[number * BATCH : (number + 1) * BATCH]:
            document, images = reader.stored(row)
            samples.append((document.id, images[0] if shown is None else shown(images[0])))
        return samples if shown is None else stacked(samples)

    return ahead(work, range(-(-len(order) // BATCH)), 0 if shown is None else WORKERS)


def to_square(data: bytes) -> torch.Tensor:
    """uint8 [224, 224, 3], decoded as in training; the peers call the same."""
    return torch.from_numpy(np.array(square(decode(data, 1 << 30, PX), PX)))


def per_picture(batches: Iterable[Any]) -> float:
    """Seconds per picture after the first batch of each worker."""
    started, counted = 0.0, 0
    for number, batch in enumerate(batches):
        if number >= WORKERS:
            counted += len(_pictures(batch))
        elif number == WORKERS - 1:
            started = time.perf_counter()
    return (time.perf_counter() - started) / counted


def check(loaders: dict[str, Loader], count: int) -> str:
    """Every loader gives every picture once, the same bytes or pixels. Raises AssertionError."""
    digests = {}
    for name, loader in loaders.items():
        found: dict[str, bytes] = {}
        for batch in loader():
            for key, data in _pictures(batch):
                if key in found:
                    raise AssertionError(f"{name} gives {key} twice")
                found[key] = hashlib.sha256(data if isinstance(data, bytes) else data.numpy().tobytes()).digest()
        if len(found) != count:
            raise AssertionError(f"{name} gives {len(found)} of {count} pictures")
        digests[name] = hashlib.sha256(b"".join(key.encode() + found[key] for key in sorted(found))).hexdigest()
    if len(set(digests.values())) != 1:
        raise AssertionError(f"the loaders give different pictures: {digests}")
    return f"{count} pictures, each once, the same in all three (sha256 {next(iter(digests.values()))[:12]})"


def _pictures(batch: Any) -> list[Any]:
    """(id, picture) of a batch: a list of them, or (ids, all pictures)."""
    return list(zip(*batch, strict=True)) if isinstance(batch[1], torch.Tensor) else list(batch)


def memory(folder: Path, documents: int, *, goals: bool) -> list[Row]:
    """The largest resident memory of a worker while so many small documents pass, and what it grew after the first tenth."""
    small = [(f"small-{number}", _jpeg(np.full((16, 16, 3), number % 251, np.uint8))) for number in range(10_000)]
    reader, order = prepared(folder / "small", small)
    epochs = documents // len(order)

    def work(number: int) -> int:
        rows = order[number * BATCH % len(order) :][:BATCH]
        for row in rows:
            document, images = reader.stored(row)
            if document.id != row.id or decode(images[0], 1 << 30).shape != (16, 16, 3):
                raise AssertionError(f"{row.id} is not what was read")
        return len(rows)

    seen, sizes = 0, []
    for number, read in enumerate(ahead(work, range(epochs * -(-len(order) // BATCH)), WORKERS)):
        seen += read
        if number % 100 == 0:
            sizes.append((seen, max((_resident(child) for child in multiprocessing.active_children()), default=0.0)))
    most = max(size for _, size in sizes)
    early = max(size for at, size in sizes if at <= max(seen // 10, sizes[0][0]))
    passed = f"{seen} documents read, verified and decoded"
    what = f"{seen:.0e} documents of 16x16, decoded, {WORKERS} workers"
    goal = Goal(500)
    return [
        Row(what, "largest worker", most, "MB", passed, str(goal) if goals else "", goal.holds(most) if goals else None),
        Row(what, "growth after the first tenth", most - early, "MB", passed),
    ]


def photographs(count: int) -> list[Picture]:
    """JPEGs of cloudy colours with fine grain, all different."""
    rng = np.random.default_rng(0)
    clouds = []
    for _ in range(16):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        clouds.append((np.asarray(coarse).astype(np.int16) + rng.normal(0, 9, (HEIGHT, WIDTH, 3))).clip(0, 255).astype(np.uint8))
    return [(f"photo-{number}", _jpeg(np.roll(clouds[number % 16], number // 16, axis=1))) for number in range(count)]


def prepared(folder: Path, pictures: Sequence[Picture]) -> tuple[DocumentReader, list[IndexRow]]:
    """Shards and index as `prepare` writes them; their reader and their documents in a drawn order."""
    for name in ("shards", "index"):
        (folder / name).mkdir(parents=True)
    json_text = fit([TEXT] * 10, 300)
    tokens = Tokenizer(json_text).lengths([TEXT])[0]
    rows = []
    with ShardWriter(folder / "shards", SHARD_DOCUMENTS) as writer:
        for name, data in pictures:
            items = (ImageItem(id="0", path=f"{name}.0.jpg"), TextItem(text=TEXT))
            document = Document(id=name, source="s", kind="interleaved", split="train", licence="l", origin="natural", items=items)
            known = vars(writer.add(document, [data])) | {"id": name, "source": "s", "kind": document.kind, "split": "train"}
            known |= {"tokens": tokens, "items": (-1, tokens), "images": ((WIDTH, HEIGHT),), "trained_images": 1}
            rows.append(IndexRow(**known))
        shards = writer.finish()
    write_index(folder / "index", rows, shards, json_text)
    index = Index(folder / "index")
    order = generator(0, "benchmark").permutation(len(rows)).tolist()
    known_rows = index.rows("train", "interleaved")
    return DocumentReader(index, folder / "shards"), [known_rows[number] for number in order]


def _row(case: str, metric: str, value: float, peer: float, least: float, passed: str, goals: bool) -> Row:
    goal, ratio = Goal(least, at_most=False), value / peer
    return Row(case, metric, value, "/s", passed, f"ratio {goal}" if goals else "", goal.holds(ratio) if goals else None, peer, ratio)


_kept: list[Picture] = []


def _keep(pictures: list[Picture]) -> None:
    _kept.extend(pictures)


def _decoding(pool: ProcessPoolExecutor, count: int) -> float:
    """Seconds per picture of decoding from memory in as many processes, nothing read and nothing handed over."""
    started = time.perf_counter()
    list(pool.map(_decode_share, [(count * part // WORKERS, count * (part + 1) // WORKERS) for part in range(WORKERS)]))
    return (time.perf_counter() - started) / count


def _decode_share(share: tuple[int, int]) -> None:
    for _, data in _kept[slice(*share)]:
        to_square(data)


def _resident(process: multiprocessing.process.BaseProcess) -> float:
    try:
        return float(psutil.Process(process.pid).memory_info().rss) / 1e6
    except psutil.NoSuchProcess:
        return 0.0


def _jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return file.getvalue()


if __name__ == "__main__":
    main()
