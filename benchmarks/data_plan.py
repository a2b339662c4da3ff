"""The plan of training: packing, permutation, opening an index, resuming. `python -m benchmarks.data_plan [--quick] [--json FILE]`.

Times are seconds of the processor that this process used, the least of the repetitions: the machine is shared, and neither packing nor
opening waits for anything else. The documents are those of reference D.3 (mean 692, median 528 tokens in rows of 2048).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import made_up_index
from benchmarks.record import Options, Row, options, publish
from components.data.cursor import Cursor
from components.data.index import Index
from components.data.measure import Measure
from components.data.packing import pack
from components.data.plan import Place, SourcePlan
from components.data.segments import PackedWindow
from components.data.stream import TrainStream
from components.data.window_packer import Rules, WindowPacker
from components.data.windows import Epochs
from components.params import TrainParams
from model.presets import preset

CAPACITY, WINDOW, ROWS_PER_STEP, STEP = 2048, 1024, 360, 1_000_000
MODES = ("best_fit", "concatenate_split")
SHAPE = preset("smoke", vocab_size=300).shape


def main() -> None:
    asked = options("packing, permutation, index and cursor")
    with tempfile.TemporaryDirectory(prefix="mmfs plan ") as folder:
        rows = measure(Path(folder), asked)
    if asked.quick:  # a small corpus is not what the goals are about
        rows = [replace(row, goal="", holds=None) for row in rows]
    publish("data plan", rows, asked)


def measure(folder: Path, asked: Options) -> list[Row]:
    """All rows; the index of many documents is in `folder` only while they are measured."""
    some, many = (200_000, 1_000_000) if asked.quick else (2_000_000, 100_000_000)
    made_up_index.make(folder / "some", some)
    rows = [*_planner(Index(folder / "some"), asked), *_packings(Index(folder / "some"))]
    made_up_index.make(folder / "many", many)
    index = Index(folder / "many")
    return [*rows, *_opening(folder / "many", many, asked), *_planner_of_many(index, asked), *_resuming(folder / "many", index, asked)]


def planner(index: Index, windows: int, name: str = "made-up", seed: int = 0) -> Callable[[int], list[PackedWindow]]:
    """What plans the first windows of an epoch, permutation, lengths and packing, as training does when it reads them in order."""
    epochs = Epochs(name, index.select("train", name), WINDOW, seed)
    packer = WindowPacker(Measure(index, SHAPE.num_visual_tokens), Rules(CAPACITY))
    return lambda epoch: packer.pack(epochs.window(epoch, 0, windows), check=False)


def _planner(index: Index, asked: Options) -> list[Row]:
    plan = planner(index, windows := 64 if asked.quick else 1024)
    check = "each document in one row, rows as of packing a window alone"
    _check_windows(index, plan(0)[: min(windows, 64)])
    one = planner(index, 1)
    together = windows * WINDOW / min(_cpu(plan, epoch) for epoch in range(1, 2 + 2 * asked.repetitions)) / 1e6
    alone = WINDOW / min(_cpu(one, epoch) for epoch in range(1, 8)) / 1e6
    steps = SourcePlan(
        Epochs("made-up", index.select("train", "made-up"), WINDOW, 1),
        WindowPacker(Measure(index, SHAPE.num_visual_tokens), Rules(CAPACITY)),
    )
    count = ROWS_PER_STEP * (50 if asked.quick else 2000)
    each = 1e6 * _cpu(lambda _: [steps.row(steps.locate(number)) for number in range(count)], 0) / count
    return [
        Row("planner", "documents", together, "million/s", check, "≥ 2.5", together >= 2.5),
        Row("planner, a window alone", "documents", alone, "million/s", check),
        Row("rows of training, one after the other", "time", each, "us a row", check),
    ]


def _planner_of_many(index: Index, asked: Options) -> list[Row]:
    """The same where lengths are read from all over columns of hundreds of megabytes."""
    plan = planner(index, windows := 64 if asked.quick else 1024)
    _check_windows(index, plan(0)[:4])
    rate = windows * WINDOW / min(_cpu(plan, epoch) for epoch in range(1, 2 + asked.repetitions)) / 1e6
    return [Row("index of many documents", "planner", rate, "million/s", "four windows packed as each alone")]


def _check_windows(index: Index, windows: list[PackedWindow]) -> None:
    """Raises RuntimeError unless the windows hold every document once and their rows are those of the plain packing."""
    selection = index.select("train", "made-up")
    epochs = Epochs("made-up", selection, WINDOW, 0)
    for number, window in enumerate(windows):
        documents = epochs.window(0, number, 1)[0].documents
        own = index.columns["tokens"][documents].astype(np.int64) + 2
        alone = sorted(sorted(documents[row].tolist()) for row in pack(own.tolist(), CAPACITY))
        found = sorted(sorted(segment.document for segment in window.row(row)) for row in range(len(window)))
        if found != alone:
            raise RuntimeError(f"window {number} is packed otherwise beside others than alone")


def _packings(index: Index) -> list[Row]:
    """Padding and cuts of 200,000 documents, in windows and as the paper packs."""
    rows = []
    selection, size, tokens = index.select("train", "made-up"), 200 * WINDOW, index.columns["tokens"]
    epochs = Epochs("made-up", selection, WINDOW, 0)
    for mode in MODES:
        packer = WindowPacker(Measure(index, SHAPE.num_visual_tokens), Rules(CAPACITY, mode))  # type: ignore[arg-type]
        windows = packer.pack(epochs.window(0, 0, 200), check=False)
        filled = held = cut = 0
        for window in windows:
            documents, parts = np.unique(window.document), window.parts.values()
            held += CAPACITY * len(window)
            filled += 2 * len(documents) + int(tokens[documents].sum()) + sum(part.begin > 0 for part in parts)  # a part has its own <s>
            cut += len({part.document for part in parts})
        check = f"every token of {size} documents in one row"
        padding, needless = 100 * (1 - filled / held), 100 * cut / size
        best = mode == "best_fit"
        rows.append(Row(mode, "padding", padding, "%", check, *(("≤ 0.5", padding <= 0.5) if best else ())))
        rows.append(Row(mode, "documents cut that fit a row", needless, "%", check, *(("≤ 0", needless == 0) if best else ())))
    return rows


def _opening(folder: Path, documents: int, asked: Options) -> list[Row]:
    """A process of its own each time: what it needs to open the index and plan a first window."""
    runs = [_child(folder) for _ in range(asked.repetitions)]
    check = f"{documents} documents counted, a window planned"
    opened, planned, memory = (min(run[number] for run in runs) for number in range(3))
    return [
        Row("index of many documents", "opening", opened, "s", check, "≤ 2", opened <= 2),
        Row("index of many documents", "opening and a first row", planned, "s", check),
        Row("index of many documents", "memory for it", memory, "MB", check, "≤ 500", memory <= 500),
    ]


def _child(folder: Path) -> tuple[float, float, float]:
    """(seconds to open, seconds to open and plan, MB that doing so added), wall time of another process after its imports."""
    command = [sys.executable, "-m", "benchmarks.data_plan", "--open", str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1]).stdout
    opened, planned, memory = map(float, output.split())
    return opened, planned, memory


def open_here(folder: Path) -> None:
    """What `_child` runs."""
    before, started = _own_memory(), time.monotonic()
    index = Index(folder)
    opened = time.monotonic() - started
    if len(index) != len(index.select("train", "made-up")):
        raise RuntimeError(f"{len(index)} documents, {len(index.select('train', 'made-up'))} of the source")
    window = planner(index, 1)(0)[0]
    planned = time.monotonic() - started
    if len(window.document) != WINDOW:
        raise RuntimeError(f"a window of {len(window.document)} documents")
    print(opened, planned, (_own_memory() - before) / 1e6)


def _resuming(folder: Path, index: Index, asked: Options) -> list[Row]:
    """A stream opened at step 1,000,000 from its cursor, until the rows of the step are known."""
    train = TrainParams(
        steps=2 * STEP,
        rows_per_step=ROWS_PER_STEP,
        row_tokens=CAPACITY,
        learning_rate=1,
        ranks=1,
        mixture={"made-up": [[0, 1.0], [STEP // 2, 2.0], [2 * STEP, 3.0]]},
    )
    plan = SourcePlan(Epochs("made-up", index.select("train", "made-up"), WINDOW, 0), WindowPacker(Measure(index, 4), Rules(CAPACITY)))
    at = Place(3, plan_window := len(index) // WINDOW // 2, 17)
    cursor = Cursor.from_dict(Cursor(STEP, STEP * ROWS_PER_STEP, (), {"made-up": at}).to_dict())

    def resume() -> TrainStream:
        stream = TrainStream(folder, folder, train, SHAPE, 0, cursor=cursor, window_documents=WINDOW)
        stream.rows(STEP, 0, 1)
        return stream

    first = resume().plan(STEP)[0].segments
    if first != plan.row(Place(3, plan_window, 17)):
        raise RuntimeError("the first row after resuming is not the one that the cursor names")
    value = min(_cpu(lambda _: resume(), 0) for _ in range(asked.repetitions))
    return [Row("resume", "step 1,000,000", value, "s", "the first row is the one that the cursor names", "≤ 1", value <= 1)]


def _cpu(work: Callable[[int], object], argument: int) -> float:
    started = time.process_time()
    work(argument)
    return time.process_time() - started


def _own_memory() -> int:
    """Bytes that only this process needs: pages of mapped files are the system's, which takes them back when it wants."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--open"]:
        open_here(Path(sys.argv[2]))
    else:
        main()
