"""One training as its stage sees it: start the ranks, follow them, publish the weights, write the outs. Imports no torch."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from components.continuation import Continuation
from components.data.places import shard_places
from components.launch.local import RankGroup, launch_ranks
from components.launch.warm import start_warm
from components.params import Params
from components.results import TrainResult
from components.run.main import StageContext
from components.run.paths import Paths
from components.starts import Started
from components.tracking.spool import Point, read_points
from components.tracking.weights import WEIGHTS_FILE, describe_weights, publish_weights
from components.training.checkpoints.commits import KEPT, committer_of, going_on, keep_pinned, second_place
from components.training.checkpoints.continuing import bring
from components.training.checkpoints.resume import step_of
from components.training.course import COURSE_FILE, COURSE_TAG, course_of
from components.training.guards.attempts import Attempts, Limits
from components.training.guards.rollbacks import read_decisions
from components.training.job import Job

METRICS_FILE, LOSSES_FILE, VALIDATION_FILE = "metrics.json", "losses.csv", "validation.csv"
RANK_MODULE = "components.training.rank"
VALIDATION_PREFIX = "validation/"
_CURVE = ("loss", "text_loss", "image_loss")
_SMOOTHED = 10  # last points of the curve behind the final losses
_log = logging.getLogger(__name__)


def train(
    params: Params, paths: Paths, context: StageContext, stage: str, out: Path, start: Path | dict[str, Any] | Started
) -> TrainResult:
    """Train `stage` (`pretrain` or a task) from a folder of weights, a model configuration or both, into the out folder.

    Goes on from the last good checkpoint of the work folder, as often as it takes (`Attempts`). Raises StageError.
    """
    job = new_job(params, paths, context, stage, start)
    if not job.export.is_dir():
        _run_ranks(partial(plan_job, params, paths, context, stage, start), context)
    points, _ = read_points(job.points)
    curve = [point for point in points if _CURVE[0] in point["metrics"]]
    weights = describe_weights(job.export)
    metrics = final_losses(curve)
    fresh = context.work.body / "out"
    fresh.mkdir(exist_ok=True)
    weights.write(fresh / WEIGHTS_FILE)
    (fresh / METRICS_FILE).write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_curve(curve, fresh / LOSSES_FILE)
    write_validation(points, fresh / VALIDATION_FILE)
    if (course := course_of(job.work, job.train)) is not None:
        (fresh / COURSE_FILE).write_text(course + "\n", encoding="utf-8")
        context.tracking.set_tags({COURSE_TAG: course})
    publish_weights(job.export, weights, context.tracking, context.settings)
    keep_pinned(job, context.work.folder / KEPT)
    context.work.publish(fresh, out)
    summary = f"{job.train.steps} steps, loss {metrics['loss']:.4g}, weights {weights.model_digest[:12]}"
    return TrainResult(metrics=metrics, summary=summary, model_digest=weights.model_digest, steps=job.train.steps)


def plan_job(params: Params, paths: Paths, context: StageContext, stage: str, start: Path | dict[str, Any] | Started) -> Job:
    """The job of a stage, with the checkpoint it goes on from."""
    job = new_job(params, paths, context, stage, start)
    if job.train.continue_from is not None:
        bring(Continuation.parse(job.train.continue_from), job, context.settings)
    job, notes = going_on(job, second_place(context.settings, context.work.folder.name))
    for note in notes:
        _log.warning("%s: %s", stage, note)
    if job.resume is not None:
        _log.info("%s: going on after step %d", stage, step_of(job.resume))
    return job


def new_job(params: Params, paths: Paths, context: StageContext, stage: str, start: Path | dict[str, Any] | Started) -> Job:
    """The same before anybody has looked for a checkpoint."""
    training = params.training(stage)
    text, image = training.text_loss_weight, training.image_loss_weight
    work = context.work.body.resolve()
    return Job(
        stage=stage,
        seed=params.seed,
        deterministic=params.deterministic,
        device="cpu" if context.device == "cpu" else "cuda",
        train=training,
        patterns=name_patterns(params, stage),
        text_loss_weight=params.model.text_loss_weight if text is None else text,
        image_loss_weight=params.model.image_loss_weight if image is None else image,
        condition_drop=params.model.condition_drop,
        window_documents=params.data.window_documents,
        model=start.config.to_dict() if isinstance(start, Started) else start if isinstance(start, dict) else None,
        initial=start.weights if isinstance(start, Started) else start if isinstance(start, Path) else None,
        resume=None,
        rollbacks=read_decisions(work).rollbacks,
        index=paths.index.resolve(),
        shards=shard_places(paths, context.settings),
        work=work,
    )


def name_patterns(params: Params, stage: str) -> dict[str, tuple[str, ...]]:
    """What `freeze` and `groups` look for in parameter names, by key. Pretraining takes those of the tasks with it: their model has the
    same names, and a misspelt one is better named before hours of training than after."""
    patterns: dict[str, tuple[str, ...]] = {}
    for name in params.training_stages if stage == "pretrain" else (stage,):
        key, training = params.training_key(name), params.training(name)
        patterns |= {f"{key}.freeze": training.freeze, f"{key}.groups": tuple(group.match for group in training.groups)}
    return patterns


def final_losses(points: list[Point]) -> dict[str, float]:
    """Means of the last points of the curve."""
    last = [point["metrics"] for point in points[-_SMOOTHED:]]
    return {name: sum(point[name] for point in last) / len(last) for name in _CURVE}


def write_curve(points: list[Point], path: Path) -> None:
    """The loss curve for `dvc plots`; equal trainings give equal bytes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("step", *_CURVE))
        writer.writerows((point["step"], *(repr(point["metrics"][name]) for name in _CURVE)) for point in points)


def write_validation(points: list[Point], path: Path) -> None:
    """Every mean over held-out rows by step, one line each; no file where nothing was validated."""
    rows = [(point["step"], *entry) for point in points for entry in point["metrics"].items() if entry[0].startswith(VALIDATION_PREFIX)]
    if not rows:
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("step", "name", "value"))
        writer.writerows((step, name.removeprefix(VALIDATION_PREFIX), repr(value)) for step, name, value in rows)


def _run_ranks(plan: Callable[[], Job], context: StageContext) -> None:
    settings = context.settings
    environment = {**os.environ, **settings.child_environment(), "PYTHONHASHSEED": "0"}

    def launch(job: Job) -> RankGroup:
        return launch_ranks(
            RANK_MODULE, [str(job.work)], job.train.ranks, environment, job.work / "logs", start_warm, settings.stop_grace_s
        )

    limits = Limits(settings.restarts, settings.restart_delay_s, settings.hang_s)
    second = second_place(settings, context.work.folder.name)
    Attempts(plan, launch, context.tracking, context.events, limits, partial(committer_of, second=second)).run()
