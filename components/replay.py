"""One step of a run executed again, from the checkpoint before it: the same ranks, the same rows, the same numbers. Imports no torch.

Nothing is written into the run: the ranks work in a folder of their own, on a copy of the checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.manifest import Checkpoint
from components.committed import stage_key
from components.data.places import shard_places
from components.data_versions import open_locked
from components.launch.local import launch_ranks
from components.launch.warm import start_warm
from components.params import load
from components.pretrain import stage_config
from components.run import git
from components.run.dvc_objects import fetch, listing
from components.run.dvc_remote import share
from components.run.events import EventWriter
from components.run.failures import FailureClass, StageError
from components.run.filetree import link_tree
from components.run.key import device_type
from components.run.main import StageContext
from components.run.paths import Paths, RunFiles
from components.run.record import recorded_file
from components.run.work import WorkFolder
from components.run.workspace import RunRecord
from components.settings import Settings
from components.starts import begin
from components.tracking.spool import Point, SpoolWriter, read_points, unfolded
from components.tracking.stage_run import StageRun
from components.tracking.weights import fetch_digest
from components.training.checkpoints.commits import KEPT
from components.training.checkpoints.resume import last_good
from components.training.guards.attempts import failure_of
from components.training.guards.rollbacks import read_decisions
from components.training.job import JOB_FILE, POINTS_FILE, Job, write_job
from components.training.replay.replay_rank import REPLAY_FILE, result_file
from components.training.supervise import plan_job

RANK_MODULE = "components.training.replay.replay_rank"
COMPARED = ("loss", "text_loss", "image_loss", "grad_norm", "lr")
_POLL_S = 0.1


@dataclass(frozen=True)
class Compared:
    """One logged number of a step that was executed again."""

    step: int
    name: str
    logged: float
    replayed: float

    @property
    def equal(self) -> bool:
        """To the last bit."""
        return self.logged == self.replayed or (math.isnan(self.logged) and math.isnan(self.replayed))


@dataclass(frozen=True)
class Replayed:
    """A step as it was. `since` is the step of the checkpoint that it was reached from, 0 for the stage's start; `rows` and `norms` (of
    gradients, by parameter) are those of the step, losses sums over what they count."""

    run_id: str
    stage: str
    step: int
    since: int
    ranks: int
    seconds: float
    compared: tuple[Compared, ...]
    rows: tuple[Mapping[str, Any], ...]
    norms: Mapping[str, float]
    remarks: tuple[str, ...]

    @property
    def differing(self) -> tuple[Compared, ...]:
        """What came out otherwise than it was logged."""
        return tuple(one for one in self.compared if not one.equal)

    @property
    def documents(self) -> list[Mapping[str, Any]]:
        """All documents of the step."""
        return [document for row in self.rows for document in row["documents"]]

    def mean(self, kind: str) -> float | None:
        """The mean `text` or `image` loss of the step over all ranks; None where nothing of it was trained."""
        total, count = {"text": ("text_loss", "targets"), "image": ("image_loss", "pictures")}[kind]
        number = sum(one[count] for one in self.documents)
        return sum(one[total] for one in self.documents) / number if number else None

    @property
    def gradient_norm(self) -> float:
        """Of all parameters, before clipping."""
        return math.sqrt(sum(norm**2 for norm in self.norms.values()))


def replay(settings: Settings, run_id: str, stage: str, step: int, scratch: Path, from_start: bool = False) -> Replayed:
    """Execute the steps of `stage` (`pretrain` or a task) after the last checkpoint before `step` again, that step included.

    `scratch` is an empty folder, best on the file system of `.mmfs`. Without a checkpoint the stage's start is gone back to, where that is
    no further than from one checkpoint to the next, or with `from_start`. Raises StageError naming what of the run is gone.
    """
    began = time.monotonic()
    run = _Run(settings, run_id, stage)
    checkpoint = run.checkpoint_before(step)
    job = run.job(checkpoint, scratch)
    if not 1 <= step <= job.train.steps:
        raise StageError(FailureClass.BAD_CONFIG, f"{run.address} has steps 1 to {job.train.steps}", "name one of them with --step")
    if checkpoint is None and step > job.train.checkpoint_every_steps and not from_start:
        raise StageError(FailureClass.BAD_DATA, run.why_none(step), f"add --from-start to execute all {step} steps again")
    train = job.train.model_copy(update={"checkpoint_every_steps": job.train.steps})  # it needs none of its own
    job = job.model_copy(update={"train": train})
    write_job(job)
    (scratch / REPLAY_FILE).write_text(json.dumps({"step": step}), encoding="utf-8")
    _run(job, settings)
    results = [json.loads(result_file(scratch, rank).read_text(encoding="utf-8")) for rank in range(job.train.ranks)]
    points, _ = read_points(scratch / POINTS_FILE)
    replayed = _by_step(points) | _last_norms(step, results[0]["each_step"])
    logged = run.logged()
    return Replayed(
        run_id=run_id,
        stage=run.address,
        step=step,
        since=checkpoint.step if checkpoint else 0,
        ranks=job.train.ranks,
        seconds=time.monotonic() - began,
        compared=tuple(Compared(*key, logged[key], value) for key, value in sorted(replayed.items()) if key in logged),
        rows=tuple({**row, "rank": rank} for rank, one in enumerate(results) for row in one["rows"]),
        norms=results[0]["norms"],
        remarks=tuple(run.remarks(job)),
    )


class _Run:
    """What is left of a run's stage."""

    def __init__(self, settings: Settings, run_id: str, stage: str) -> None:
        self.settings, self.run_id, self.stage = settings, run_id, stage
        self.address = stage if stage == "pretrain" else f"finetune@{stage}"
        self._files: RunFiles = settings.home.run(run_id)
        self._key = stage_key(self._files, self.address, run_id)
        self._work = settings.work_root / self._key / "body"
        places = (self._work / "checkpoints", self._work.parent / KEPT)
        self._checkpoints = CheckpointFolder(next((place for place in places if place.is_dir()), places[0]))

    def checkpoint_before(self, step: int) -> Checkpoint | None:
        """The last whole one at most one step before; None where there is none."""
        return last_good(self._checkpoints, read_decisions(self._work).rollbacks, at_most=step - 1)[0]

    def why_none(self, step: int) -> str:
        """Why there is no checkpoint before a step."""
        kept = self._checkpoints.steps()
        if not self._work.is_dir() and not kept:
            return f"the checkpoints of {self.address} are gone: run {self.run_id} has finished it, and keeps only pinned ones"
        told = f"kept are those of steps {', '.join(map(str, kept))}" if kept else "it has not come to its first"
        return f"{self.address} of run {self.run_id} has no checkpoint before step {step}: {told}"

    def job(self, checkpoint: Checkpoint | None, scratch: Path) -> Job:
        """What the ranks did, to be done in `scratch`: from a copy of the checkpoint, or from the stage's start."""
        lock = recorded_file(self.settings.home, self.run_id, "dvc.lock").read_text(encoding="utf-8")
        places = {"index": open_locked(self.settings.root, lock, self.run_id).folder.resolve(), "work": scratch.resolve()}
        if checkpoint is None:
            job = self._from_start(lock, scratch, places["index"])
            resume = None
        else:
            resume = scratch.resolve() / checkpoint.path.name
            link_tree(checkpoint.path, resume)  # retention may remove the original meanwhile
            job = Job.model_validate_json((resume / JOB_FILE).read_text(encoding="utf-8"))
            job = job.model_copy(update={"rollbacks": read_decisions(self._work).rollbacks})  # what was decided since it was written
        if job.initial is not None and not job.initial.is_dir():
            job = job.model_copy(update={"initial": fetch_digest(job.initial.name, self.settings)})
        shards = shard_places(Paths(self.settings.root), self.settings)
        return job.model_copy(update={**places, "resume": resume, "shards": shards})

    def logged(self) -> dict[tuple[int, str], float]:
        """What was logged of each step: from the work folder, else from MLflow."""
        points, _ = read_points(self._work / POINTS_FILE)
        return _by_step(points) if points else self._tracked()

    def remarks(self, job: Job) -> Iterable[str]:
        """Why numbers might differ although they need not."""
        record = RunRecord.read(self._files.record)
        root = self.settings.root
        if record is not None and record.request.git_sha != git.head(root):
            yield f"the run's source is commit {record.request.git_sha[:12]}, this is {git.head(root)[:12]}"
        elif git.source_patch(root):
            yield "the source here has uncommitted changes"
        if not job.deterministic:
            yield "the run was not deterministic: equal numbers are not promised"
        if job.device == "cpu" and device_type() != "cpu":
            yield "the run was made on a CPU"

    def _from_start(self, lock: str, scratch: Path, index: Path) -> Job:
        """The job of the stage before its first step, in a checkout of its own with the run's parameters and data."""
        checkout = scratch / "checkout"
        paths = Paths(checkout)
        (checkout / ".dvc").mkdir(parents=True)
        share(self.settings.root, checkout, self.settings.remote)
        (_made(paths.outputs) / "index").symlink_to(index)
        _place(lock, "pretrain", paths.pretrain, self.settings.root)
        params = load(recorded_file(self.settings.home, self.run_id, "params.yaml"))
        tracking = StageRun(SpoolWriter(scratch / "spool"), None)  # nobody sends it
        work = WorkFolder(scratch / "begun", checkout)
        work.body.mkdir(parents=True)
        context = StageContext(self.address, self._key, device_type(), self.settings, EventWriter(None), work, tracking)
        start = begin(params, self.stage, paths, context, partial(stage_config, params, paths, self.stage))
        return plan_job(params, paths, context, self.stage, start)

    def _tracked(self) -> dict[tuple[int, str], float]:
        """What MLflow holds of the stage's key, whichever run computed it; nothing where it cannot be asked."""
        from components.tracking.mlflow_run import connect, experiment_id

        client = connect(self.settings)
        found: dict[tuple[int, str], float] = {}
        wanted = f"tags.`mmfs.stage_key` = '{self._key}'"
        for run in client.search_runs([experiment_id(client, self.settings)], wanted, order_by=["attributes.start_time ASC"]):
            for name in COMPARED:
                found |= {(point.step, name): point.value for point in client.get_metric_history(run.info.run_id, name)}
            if found:
                break
        return found


def _run(job: Job, settings: Settings) -> None:
    source = str(Path(__file__).parents[1])
    python_path = os.pathsep.join(entry for entry in (source, os.environ.get("PYTHONPATH")) if entry)
    environment = {**os.environ, **settings.child_environment(), "PYTHONHASHSEED": "0", "PYTHONPATH": python_path}
    with launch_ranks(RANK_MODULE, [str(job.work)], job.train.ranks, environment, job.work / "logs", start_warm) as ranks:
        ended, dead = False, None
        while not ended:
            time.sleep(_POLL_S)
            ended, dead = ranks.poll()
    if dead is not None:
        raise failure_of(dead, job.work)


def _by_step(points: Sequence[Point]) -> dict[tuple[int, str], float]:
    """Values by step and name."""
    found: dict[tuple[int, str], float] = {}
    for point in unfolded(points):
        found |= {(point["step"], name): value for name, value in point["metrics"].items() if name in COMPARED}
    return found


def _last_norms(step: int, norms: Sequence[float]) -> dict[tuple[int, str], float]:
    return {(step - len(norms) + 1 + place, "grad_norm"): norm for place, norm in enumerate(norms)}


def _place(lock: str, stage: str, target: Path, root: Path) -> None:
    """The outs of a stage by the hashes of a lock; nothing where it has none."""
    import yaml

    for out in yaml.safe_load(lock).get("stages", {}).get(stage, {}).get("outs", ()):
        for entry in listing(root, out["md5"]):
            (target / entry.relpath).parent.mkdir(parents=True, exist_ok=True)
            link_tree(fetch(root, entry.md5), target / entry.relpath)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
