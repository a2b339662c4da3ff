"""`mmfs evaluate`: a committed step of a run scored beside its training; and what commands about a step share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli_output import Json, print_json, print_table, repository_root, working

if TYPE_CHECKING:
    from components.committed import Committed
    from components.settings import Settings

Task = Literal["vqa", "grounding", "segmentation", "story"]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run, a unique beginning of its name, or `latest`.", show_default=False)]
Step = Annotated[int, typer.Option(min=1, help="A step with a committed checkpoint.", show_default=False)]
Stage = Annotated[
    Literal["pretrain", "vqa", "grounding", "segmentation", "story"],
    typer.Option(help="The training stage, a task for its fine-tuning.", metavar="STAGE"),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    run: Run,
    step: Step,
    stage: Stage = "pretrain",
    task: Annotated[Task | None, typer.Option(help="Score at this task only.", metavar="TASK", show_default=False)] = None,
    json_: Json = False,
) -> None:
    """Score a committed checkpoint of a run, while the run trains on or after it stopped, at the tasks it is asked for.

    The scores are logged at that step of the stage's MLflow run as evaluation/TASK/METRIC, with samples and pictures as artifacts.

    Example: `mmfs evaluate latest --step 100 --task vqa`
    """
    with committed_step(run, stage, step, "Evaluating") as (settings, committed):
        from components.evaluate_step import evaluate_step

        found = evaluate_step(settings, committed, (task,) if task else ())
    if json_:
        print_json([asdict(one) | {"metrics": {name: metric.model_dump() for name, metric in one.metrics.items()}} for one in found])
    else:
        print_table(
            ("task", "metric", "value"), [(one.task, name, _shown(metric)) for one in found for name, metric in one.metrics.items()]
        )


@contextmanager
def committed_step(run: str, stage: str, step: int, doing: str) -> Iterator[tuple[Settings, Committed]]:
    """The checkpoint that a command is about, found and verified, with a remark on the terminal while the block runs."""
    root = repository_root()
    os.environ["MMFS_ROOT"] = str(root)
    with working(f"{doing} step {step} of {stage}"):
        from components.committed import find_committed, hold
        from components.run.record import RunRecords
        from components.settings import Settings, quiet

        quiet(os.environ)
        settings = Settings()
        with hold(settings, find_committed(settings, RunRecords(settings.home).find(run).run_id, stage, step)) as committed:
            yield settings, committed


def _shown(metric: Any) -> str:
    value = getattr(metric, "value", None)
    return f"unavailable: {metric.unavailable}" if value is None else f"{value:.3f}"
