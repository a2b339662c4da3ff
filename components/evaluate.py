"""The evaluation of one task: `python -m components.evaluate TASK`. Plans, has the answers generated, scores them. Imports no torch."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from components.data.documents import LoadedDocument
from components.data.index import Index
from components.data.places import ShardPlaces, shard_places
from components.data.reader import evaluation_documents
from components.data.sources.digits import load_scans, split_scans
from components.evaluation.answer_log import PICTURES, SAMPLES_FILE, read_answers, write_samples
from components.evaluation.estimates import METRICS_FILE, Estimate, write_metrics
from components.evaluation.illustration import ILLUSTRATIONS_FILE, sheet, write_illustrations
from components.evaluation.job import Job
from components.evaluation.manifest import MANIFEST_FILE, Manifest, Stories, plan
from components.evaluation.picture_scoring import score_segmentation, score_story
from components.evaluation.scoring import Evidence, Scored, sample_rows, score_grounding, score_vqa
from components.evaluation.statistics import Resampling
from components.launch.local import launch_ranks
from components.launch.warm import start_warm
from components.metrics import kinds_of
from components.params import TASKS, Params, Task
from components.results import EvaluateResult
from components.run.events import EventWriter
from components.run.failures import FailureClass, StageError, from_exit_code
from components.run.main import StageContext, stage_main
from components.run.paths import Paths
from components.settings import Settings
from components.tracking.weights import WEIGHTS_FILE, WeightsRecord, fetch_weights

if TYPE_CHECKING:
    from components.evaluation.judge import Judge

SHEETS = "pictures"
_POLL_S = 0.1


def run(params: Params, paths: Paths, context: StageContext, *, task: Task) -> EvaluateResult:
    """Evaluate the model of `task` on held-out documents into outputs/evaluation/<task>.

    Raises StageError when there are no documents, no weights, or a generating process fails.
    """
    folder = context.work / "answers"
    evidence, scored = answered(
        params,
        paths,
        shard_places(paths, context.settings),
        folder,
        _models(paths, context, task),
        task,
        device=context.device,
        settings=context.settings,
        events=context.events,
    )
    manifest = evidence.manifest
    out = context.work / "out"
    write_results(out, evidence, scored)
    for name in sorted(path.name for path in (out / SHEETS).iterdir()):
        context.tracking.log_artifact(out / SHEETS / name, SHEETS)
    context.tracking.set_tags({"mmfs.manifest": manifest.sha256})
    context.work.publish(out, paths.evaluation(task))
    for path in sorted((paths.evaluation(task) / SHEETS).iterdir())[:3]:
        context.events.artifact(path, "image", f"{task}: {path.stem}")
    metrics = {name: metric.value for name, metric in scored.metrics.items() if isinstance(metric, Estimate)}
    summary = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    return EvaluateResult(metrics=metrics, summary=summary, task=task, manifest_sha256=manifest.sha256, samples=len(manifest.requests))


def answered(
    params: Params,
    paths: Paths,
    places: ShardPlaces,
    folder: Path,
    models: dict[str, str],
    task: Task,
    *,
    device: str,
    settings: Settings,
    events: EventWriter,
) -> tuple[Evidence, Scored]:
    """Plan the evaluation of a task, have `models` (folders by who answers) answer it into `folder`, and score what they said.

    `paths` has the index and the scans behind the built-in corpus, `places` the shards.
    """
    index = Index(paths.index)
    documents = _documents(params, paths, places, task)
    data = {"documents": index.sha256, "tokenizer": index.tokenizer.sha256}
    asked = params.evaluate
    manifest = plan(
        task,
        [one.document for one in documents.values()],
        seed=params.seed,
        sampling=asked.sampling,
        data=data,
        stories=Stories(asked.frames_per_story, asked.told_stories),
    )
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write(folder / MANIFEST_FILE)
    job = Job(
        models=models,
        index=str(paths.index.resolve()),
        shards=places.model_dump(mode="json"),
        batch_documents=asked.batch_documents,
        ranks=asked.ranks,
        device=device,
        deterministic=params.deterministic,
    )
    job.write(folder)
    generate(folder, manifest, job, settings, events)
    how = Resampling(asked.bootstrap, asked.confidence, params.seed)
    evidence = Evidence(manifest, documents, read_answers(folder), folder, how)
    return evidence, score(evidence, partial(_judge, params, paths))


def generate(folder: Path, manifest: Manifest, job: Job, settings: Settings, events: EventWriter) -> None:
    """Have every request answered into `folder` by rank processes. Raises StageError when one of them fails."""
    environment = {**os.environ, **settings.child_environment()}
    total, ended, dead = len(manifest.requests), False, None
    with launch_ranks("components.evaluation.generate", [str(folder)], job.ranks, environment, folder / "logs", start_warm) as ranks:
        told = -1
        while not ended:
            time.sleep(_POLL_S)
            ended, dead = ranks.poll()
            done = sum(path.read_bytes().count(b"\n") for path in folder.glob("answers-*.jsonl"))
            if done != told:
                events.progress(min(done, total), total, "answers")
                told = done
    if dead is not None:
        words = dead.last_words()
        raise StageError(
            from_exit_code(dead.status), f"generating process {dead.rank} ended with {dead.status}: {words}", f"its log is {dead.log}"
        )


def score(evidence: Evidence, judge: partial[Judge]) -> Scored:
    """The metrics of the manifest's task."""
    match evidence.manifest.task:
        case "vqa":
            return score_vqa(evidence)
        case "grounding":
            return score_grounding(evidence)
        case "segmentation":
            return score_segmentation(evidence)
        case "story":
            return score_story(evidence, judge)


def write_results(out: Path, evidence: Evidence, scored: Scored) -> None:
    """Everything an evaluation leaves: manifest, samples, metrics, generated pictures, sheets and illustrations for people."""
    (out / SHEETS).mkdir(parents=True, exist_ok=True)
    (out / PICTURES).mkdir(exist_ok=True)
    evidence.manifest.write(out / MANIFEST_FILE)
    write_samples(out / SAMPLES_FILE, sample_rows(evidence, scored))
    write_metrics(out / METRICS_FILE, scored.metrics)
    write_illustrations(out / ILLUSTRATIONS_FILE, scored.illustrations)
    for number, illustration in enumerate(scored.illustrations):
        (out / SHEETS / f"{number:02d}.png").write_bytes(sheet(illustration))
    for request in evidence.manifest.requests:
        for picture in evidence.answers[request.id].pictures:
            (out / PICTURES / picture.file).write_bytes((evidence.folder / PICTURES / picture.file).read_bytes())


def _documents(params: Params, paths: Paths, places: ShardPlaces, task: Task) -> Mapping[str, LoadedDocument]:
    loaded = [
        one for kind in kinds_of(task) for one in evaluation_documents(paths.index, places, kind, params.evaluate.documents.get(kind, 0))
    ]
    if not loaded:
        fix = "raise evaluate.documents and data.evaluation_documents, or take the task out of `tasks`"
        raise StageError(FailureClass.BAD_DATA, f"there are no held-out documents of kind {' or '.join(kinds_of(task))}", fix)
    return {one.document.id: one for one in loaded}


def _models(paths: Paths, context: StageContext, task: Task) -> dict[str, str]:
    """Folders of verified weights by who answers; the pretrained model is asked in task story only."""
    folders = {"task": paths.finetune(task)} | ({"pretrain": paths.pretrain} if task == "story" else {})
    return {who: str(fetch_weights(WeightsRecord.read(folder / WEIGHTS_FILE), context.settings)) for who, folder in folders.items()}


def _judge(params: Params, paths: Paths) -> Judge:
    from components.evaluation.judge import train_judge  # scikit-learn, for the one task that asks it

    scans, labels = load_scans(paths.input / "digits")
    training = split_scans(labels, params.data.held_out_fraction, params.seed)["train"]
    return train_judge(scans, labels, training, params.data.image_px, params.seed)


def main(arguments: list[str]) -> int:
    """Exit status of `python -m components.evaluate TASK`."""
    parser = argparse.ArgumentParser(prog="python -m components.evaluate", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    task: Task = parser.parse_args(arguments).task
    return stage_main(f"evaluate@{task}", partial(run, task=task))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
