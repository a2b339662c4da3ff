"""What every `python -m components.<stage>` does around the stage's body."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.params import Params, parse, read_mapping
from components.results import Result
from components.run.dvc_remote import content_address
from components.run.events import EventWriter
from components.run.failures import FailureClass, StageError, explain
from components.run.guard import guarded
from components.run.key import StageInputs, device_type, stage_inputs
from components.run.lease import Owner
from components.run.paths import Paths
from components.run.pipeline import StageSpec, read_pipeline
from components.run.process import die_with_parent
from components.run.work import WorkFolder, hold_work
from components.settings import Settings, without_secrets
from components.tracking.stage_run import StageRun
from components.tracking.weights import WEIGHTS_FILE, WeightsRecord, at_hand

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageContext:
    """What a stage's body is given besides parameters and paths."""

    name: str
    key: str
    device: str
    settings: Settings
    events: EventWriter
    work: WorkFolder
    tracking: StageRun


Body = Callable[[Params, Paths, StageContext], Result]


def stage_main(name: str, body: Body) -> int:
    """Run the body of stage `name` (its dvc.yaml address) in the current checkout; the exit status.

    A failure is one line on stderr, an event and an exit code of its class. The traceback is printed for bugs only.
    """
    die_with_parent()
    return guarded(name, lambda settings, events: _run(name, body, settings, events))


def _run(name: str, body: Body, settings: Settings, events: EventWriter) -> None:
    paths = Paths(Path.cwd())
    values = read_mapping(paths.params)
    params = parse(values)
    stages = read_pipeline(paths.dvc_yaml)
    if name not in stages:
        raise StageError(FailureClass.BAD_CONFIG, f"dvc.yaml has no stage {name}", f"it has: {', '.join(stages)}")
    inputs = stage_inputs(stages[name], paths.root, values, device_type())
    key = inputs.key

    def on_wait(owner: Owner) -> None:
        message = f"{name}: process {owner.pid} on {owner.host} computes the same; waiting for it"
        events.waiting(message)
        _log.info(message)

    def on_lost() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with hold_work(settings.work_root, key, paths.root, on_wait, on_lost) as work:
        if (known := work.restore()) is not None and _weights_at_hand(paths.root, stages[name], settings):
            _log.info("%s: already computed under %s", name, key[:12])
            events.finished(known)
            return
        tracking = StageRun.open(settings, name, key, {"mmfs.device": inputs.device, "mmfs.run_id": settings.run_id or "none"})
        events.started(name, key)  # whoever hears it finds the spool there
        context = StageContext(name, key, inputs.device, settings, events, work, tracking)
        try:
            result = _tracked(params, paths, context, body, inputs)
        except BaseException as error:
            problem = explain(error)
            tracking.set_tags({"mmfs.failure": problem.failure, "mmfs.failure_message": without_secrets(problem.message)})
            tracking.close("KILLED" if problem.failure is FailureClass.PREEMPTED else "FAILED")
            raise
        work.finish(result.as_dict())
        events.finished(result.as_dict())
        tracking.close("FINISHED")


def _weights_at_hand(root: Path, stage: StageSpec, settings: Settings) -> bool:
    records = [root / out / WEIGHTS_FILE for out in stage.outs if (root / out / WEIGHTS_FILE).exists()]
    return all(at_hand(WeightsRecord.read(record), settings) for record in records)


def _tracked(params: Params, paths: Paths, context: StageContext, body: Body, inputs: StageInputs) -> Result:
    context.tracking.log_params(inputs.params)
    for path, digest in inputs.deps.items():
        if path.startswith(("data/", "outputs/")):
            context.tracking.log_input(path, digest, content_address(paths.root, digest), path, context.name.partition("@")[0])
    result = body(params, paths, context)
    context.tracking.log_summary(result.metrics)
    return result
