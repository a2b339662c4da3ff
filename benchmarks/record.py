"""What every benchmark prints and writes: rows of one case and metric each, with the goal and the check that came before the number."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

DISTRIBUTIONS = ("torch", "prefect", "mlflow", "dvc", "lightning", "deepspeed")


@dataclass(frozen=True)
class Goal:
    """The figure an issue asks for."""

    value: float
    at_most: bool = True

    def holds(self, value: float) -> bool:
        return value <= self.value if self.at_most else value >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """One number. `check` names the correctness check that passed before it was taken; a row cannot be made without one.

    `value` is the median of the repetitions; `peer` is another program's number for the same case and `ratio` is value / peer, or peer /
    value where the goal asks for a ratio.
    """

    case: str
    metric: str
    value: float
    unit: str
    check: str
    goal: str = ""
    holds: bool | None = None
    peer: float | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        if not self.check:
            raise ValueError(f"{self.case}, {self.metric}: no number without the check that was passed before it")


def median_row(case: str, metric: str, values: Sequence[float], unit: str, check: str, goal: Goal | None = None) -> Row:
    """The row of several repetitions."""
    value = statistics.median(values)
    return Row(case, metric, value, unit, check, str(goal or ""), goal.holds(value) if goal else None)


@dataclass(frozen=True)
class Options:
    """What every benchmark is called with."""

    quick: bool
    repetitions: int
    json: Path | None


def options(description: str) -> Options:
    """Read `--quick`, `--repetitions N` and `--json FILE`; a quick run repeats nothing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="once and small: does the benchmark itself work?")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="how often each is measured; the median counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    known = parser.parse_args()
    if known.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    return Options(known.quick, 1 if known.quick else known.repetitions, known.json)


def publish(benchmark: str, rows: Sequence[Row], asked: Options) -> None:
    """Print the table and write the JSON file where one was asked for."""
    table = Table(title=benchmark)
    for column in ("case", "metric", "value", "peer / ratio", "goal", "holds", "checked by"):
        table.add_column(column)
    for row in rows:
        peer = " / ".join(f"{value:.4g}" for value in (row.peer, row.ratio) if value is not None)
        table.add_row(row.case, row.metric, f"{row.value:.4g} {row.unit}".strip(), peer, row.goal, _word(row.holds), row.check)
    Console(width=140).print(table)
    if asked.json:
        asked.json.write_text(json.dumps(document(benchmark, rows, asked), indent=2) + "\n", encoding="utf-8")


def document(benchmark: str, rows: Sequence[Row], asked: Options) -> dict[str, Any]:
    """The JSON form."""
    return {
        "benchmark": benchmark,
        "quick": asked.quick,
        "repetitions": asked.repetitions,
        "device": device(),
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in DISTRIBUTIONS},
        "rows": [asdict(row) for row in rows],
    }


def device() -> str:
    """Processor, number of usable cores, and how many processes wanted them when the measurement ended, in words."""
    import psutil

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(psutil.Process().cpu_affinity())
    memory, load = psutil.virtual_memory().total / 2**30, os.getloadavg()[0]
    return f"{names[0] if names else platform.machine()}, {cores} cores, {memory:.0f} GiB, load average {load:.1f} at the end"


def _word(holds: bool | None) -> str:
    return "" if holds is None else "yes" if holds else "no"
