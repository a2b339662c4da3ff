"""The whole line in a fresh clone: cold, and again with nothing changed. `python -m benchmarks.pipeline [--quick] [--json FILE]`.

A repetition is a new clone with an empty Prefect home, empty stores and empty caches. `--quick` takes the preset `smoke`, once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from benchmarks import watch
from benchmarks.record import Goal, Row, median_row, options, publish

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = ("prepare", "pretrain", "finetune", "evaluate")
QUALITY = {
    "question_accuracy": Goal(0.80, at_most=False),
    "picture_accuracy": Goal(0.60, at_most=False),
    "box_accuracy": Goal(0.50, at_most=False),
    "miou": Goal(0.50, at_most=False),
}


@dataclass(frozen=True)
class Line:
    """One `mmfs run`: what it answered and what it cost."""

    result: dict[str, Any]
    cost: watch.Cost

    @property
    def overhead(self) -> float:
        """Share of the wall time in which no stage's process lived."""
        return float(self.result["orchestration_seconds"] / self.result["seconds"])


def main() -> None:
    asked = options("cost of the whole line, cold and unchanged")
    arguments = ["--preset", "smoke"] if asked.quick else []
    pairs = [_repetition(arguments) for _ in range(asked.repetitions)]
    cold, warm, metrics = [pair[0] for pair in pairs], [pair[1] for pair in pairs], [pair[2] for pair in pairs]

    ran, cached = "every stage Completed", "every stage Cached"
    rows = [
        median_row("cold", "wall", [line.cost.seconds for line in cold], "s", ran, Goal(360)),
        median_row("cold", "peak memory", [line.cost.peak_gib for line in cold], "GiB", ran, Goal(6)),
        median_row("cold", "before the first stage", [line.result["opening_seconds"] for line in cold], "s", ran),
        median_row("cold", "stage processes", [line.result["process_seconds"] for line in cold], "s", ran),
        median_row("cold", "orchestration", [line.result["orchestration_seconds"] for line in cold], "s", ran),
        median_row("cold", "orchestration share", [line.overhead for line in cold], "", ran, Goal(0.15)),
        median_row("unchanged", "wall", [line.cost.seconds for line in warm], "s", cached, Goal(30)),
        *_quality(metrics),
    ]
    if asked.quick:  # the goals are about the preset `tiny`
        rows = [replace(row, goal="", holds=None) for row in rows]
    publish("pipeline" + (" (smoke)" if asked.quick else ""), rows, asked)


def _repetition(arguments: list[str]) -> tuple[Line, Line, dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="mmfs benchmark ") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        cold = _run(clone, arguments, "Completed")
        warm = _run(clone, arguments, "Cached")
        return cold, warm, _metrics(clone, cold.result["mlflow_run_id"])


def _run(clone: Path, arguments: list[str], state: str) -> Line:
    """Raises RuntimeError when the run fails or its pipeline stages are not all in `state`: then there is no number."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MMFS_", "PREFECT_", "MLFLOW_"))}
    cost = watch.run([sys.executable, "-m", "flows.cli", "run", "--json", *arguments], clone, environment)
    if cost.returncode:
        raise RuntimeError(f"mmfs run ended with {cost.returncode}: {cost.output[-2000:]}")
    result = json.loads(cost.output)
    states = {stage["stage"]: stage["state"] for stage in result["stages"] if stage["stage"].split("@")[0] in PIPELINE}
    if set(states.values()) != {state}:
        raise RuntimeError(f"expected every stage {state}, got {states}")
    return Line(result, cost)


def _metrics(clone: Path, parent: str) -> dict[str, float]:
    client = MlflowClient(tracking_uri=f"sqlite:///{clone / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    children = client.search_runs(experiments, f"tags.mlflow.parentRunId = '{parent}'")
    return {name: value for child in children for name, value in child.data.metrics.items()}


def _quality(metrics: list[dict[str, float]]) -> list[Row]:
    check = "held-out scans only, read back from MLflow"
    return [median_row("cold", name, [one[name] for one in metrics], "", check, goal) for name, goal in QUALITY.items()]


if __name__ == "__main__":
    main()
