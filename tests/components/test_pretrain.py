"""The training stages on the real model and data at the smoke size, down to outs and published weights."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from PIL import Image
from stage_world import ROOT, Line, smoke_values
from training_world import train_params

from components import finetune, pretrain
from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.manifest import verify
from components.checkpoints.places import open_place
from components.checkpoints.second import SecondPlace
from components.committed import Committed, find_committed, find_unfinished, hold
from components.continuation import Continuation
from components.evaluate_step import evaluate_step
from components.launch.local import DeadRank, Process
from components.params import load, merge, parse
from components.register_step import register_step
from components.registry.package import fetch_evaluated, find_version
from components.run.events import EventWriter, read_events
from components.run.failures import FailureClass, StageError
from components.run.paths import Paths
from components.run.workspace import Request, RunRecord
from components.settings import Settings
from components.tracking.mlflow_run import connect, open_run
from components.tracking.spool import Point, read_points
from components.tracking.weights import WeightsRecord, damaged_files, describe_weights
from components.training import supervise
from components.training.checkpoints.export import export_checkpoint
from components.training.checkpoints.identity import info_of
from components.training.checkpoints.tensors import read_tensors
from components.training.guards.attempts import failure_of
from components.training.guards.journal import read_journal
from components.training.job import read_job, write_failure
from components.training.telemetry.samples import draw
from components.training.telemetry.sampling import Samples
from model.build import load_model


@pytest.fixture(autouse=True)
def _warm(warm: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in warm.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    measured = {"validation": {"every_steps": 3, "rows": 2}, "telemetry": {"group_norms_every_steps": 2}}
    return Line(tmp_path_factory.mktemp("line of training"), parse(merge(smoke_values(), {"pretrain": measured})))


def test_a_pretrained_model_is_fine_tuned_and_both_are_published(line: Line) -> None:
    context, tracking = line.context("pretrain")
    result = pretrain.run(line.params, line.paths, context)
    weights = WeightsRecord.read(line.paths.pretrain / "weights.json")
    assert [file.name for file in weights.files] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert result.model_digest == weights.model_digest == tracking.models[0]["model_digest"]
    assert not damaged_files(line.settings.home.weights / weights.model_digest, weights)
    rows = list(csv.DictReader((line.paths.pretrain / "losses.csv").read_text().splitlines()))
    curve = [point for point in tracking.points if "loss" in point["metrics"]]
    assert [int(row["step"]) for row in rows] == [point["step"] for point in curve] == list(range(1, line.params.pretrain.steps + 1))
    names = {"loss", "text_loss", "image_loss", "lr", "grad_norm", "tokens_per_second", "images_per_second", "mfu", "memory/rss_bytes"}
    laps = {f"time/{lap}" for lap in ("step", "data", "forward", "backward", "optimizer")}
    assert all(names | laps <= set(point["metrics"]) for point in curve)
    assert all(0 < point["metrics"]["mfu"] < 1 for point in curve)
    assert {"time/checkpoint", "time/validation"} <= set(curve[3]["metrics"])
    assert_sources_add_up([point["metrics"] for point in curve])
    assert [point["step"] for point in tracking.points if "grad_norm/rest/decay" in point["metrics"]] == [2, 4, 6]
    held_out = list(csv.DictReader((line.paths.pretrain / "validation.csv").read_text().splitlines()))
    assert {int(row["step"]) for row in held_out} == {3, 6}
    found = {row["name"] for row in held_out}
    assert {"question/text_loss", "story/image_loss", "bucket_1/stop_accuracy", "bucket_8/stop_accuracy"} <= found
    assert curve[-1]["metrics"]["goodput"] > 0
    assert json.loads((line.paths.pretrain / "metrics.json").read_text()) == dict(result.metrics)
    progress = [event for event in read_events(line.root / "events" / "pretrain.jsonl") if event.name == "progress"]
    assert progress[-1].values["done"] == progress[-1].values["total"] == line.params.pretrain.steps
    last = CheckpointFolder(read_job(context.work.body).checkpoints).latest()[0]
    assert last is not None
    export_checkpoint(last.path, line.root / "exported")
    cached = line.settings.home.weights / weights.model_digest
    assert [path.name for path in sorted((line.root / "exported").iterdir())] == [file.name for file in weights.files]
    assert all((line.root / "exported" / name).read_bytes() == (cached / name).read_bytes() for name in ("config.json", "tokenizer.json"))
    trained, ended = (load_model(folder).state_dict() for folder in (line.root / "exported", cached))
    told = read_tensors(last.path / "tensors.json")
    assert {name for name, tensor in told.items() if tensor.sha256 and not trained[name].equal(ended[name])} == set(), "frozen ones stay"
    assert any(not trained[name].equal(ended[name]) for name in trained), "it is of an earlier step"

    context, _ = line.context("finetune-vqa")
    tuned = finetune.run(line.params, line.paths, context, task="vqa")
    assert tuned.model_digest != result.model_digest
    assert tuned.metrics["image_loss"] == 0
    assert read_job(context.work.body).initial == line.settings.home.weights / weights.model_digest
    assert WeightsRecord.read(line.paths.finetune("vqa") / "weights.json").config == weights.config


def assert_sources_add_up(points: list[dict[str, float]]) -> None:
    """The losses by name are parts of the loss of all; a point is one step here."""
    names = {name.split("/")[1] for point in points for name in point if name.startswith("source/")}
    assert names >= {"question", "referring"}
    for loss, count in (("text_loss", "text_targets"), ("image_loss", "pictures")):
        for point in points:
            own = [f"source/{name}" for name in names if f"source/{name}/{loss}" in point]
            shares = [(point[f"{name}/{loss}"], point[f"{name}/{count}"]) for name in own]
            total = sum(number for _, number in shares)
            assert sum(mean * number for mean, number in shares) / max(total, 1) == pytest.approx(point[loss], rel=1e-5)


def test_impossible_sizes_are_named_before_any_rank_starts(line: Line) -> None:
    params = line.params.model_copy(update={"pretrain": line.params.pretrain.model_copy(update={"row_tokens": 100_000})})
    with pytest.raises(StageError, match="row_tokens is 100000, the model has") as error:
        pretrain.run(params, line.paths, line.context("impossible")[0])
    assert error.value.failure is FailureClass.BAD_CONFIG


def test_an_absent_corpus_is_named(line: Line, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"index\.json cannot be read") as error:
        pretrain.run(line.params, Paths(tmp_path), line.context("absent")[0])
    assert error.value.failure is FailureClass.BAD_DATA


def test_a_failing_rank_is_reported_in_its_own_words(line: Line) -> None:
    context, _ = line.context("failing")
    mixture = line.params.finetune.vqa.model_copy(update={"freeze": ("no_such_parameter",)})
    params = line.params.model_copy(update={"finetune": line.params.finetune.model_copy(update={"vqa": mixture})})
    with pytest.raises(StageError, match="no parameter's name contains 'no_such_parameter'") as error:
        supervise.train(params, line.paths, context, "vqa", line.paths.finetune("vqa"), pretrain.model_config(params, line.paths).to_dict())
    assert error.value.failure is FailureClass.BAD_CONFIG


@pytest.mark.parametrize(
    ("status", "told", "expected"),
    [
        (79, StageError(FailureClass.NON_FINITE, "the loss of step 3 is not finite", "lower learning_rate"), FailureClass.NON_FINITE),
        (-9, StageError(FailureClass.INFRASTRUCTURE, "lost the other ranks"), FailureClass.OUT_OF_MEMORY),
        (-15, None, FailureClass.PREEMPTED),
        (1, None, FailureClass.BUG),
    ],
)
def test_the_cause_is_reported_not_its_echo(tmp_path: Path, status: int, told: StageError | None, expected: FailureClass) -> None:
    if told is not None:
        write_failure(tmp_path, 0, told)
    problem = failure_of(DeadRank(1, status, tmp_path / "rank-1.log"), tmp_path)
    assert problem.failure is expected


def test_a_job_goes_on_from_the_newest_good_checkpoint(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    context, _ = line.context("resumed")
    initial = line.root / "initial"
    initial.mkdir()
    (initial / "config.json").write_text("{}")
    fresh = supervise.plan_job(line.params, line.paths, context, "vqa", initial)
    assert fresh.resume is None
    folder = CheckpointFolder(fresh.checkpoints)
    for step in (2, 4):
        (folder.begin(step) / "cursor.json").write_text(json.dumps({"step": step}))
        folder.commit(step, info_of(fresh))
    (folder.folder / "step-00000004" / "cursor.json").write_text("harmed")
    job = supervise.plan_job(line.params, line.paths, context, "vqa", initial)
    assert set(job.patterns) == {"finetune.vqa.freeze", "finetune.vqa.groups"}
    first = supervise.plan_job(line.params, line.paths, line.context("first")[0], "pretrain", {})
    assert first.patterns["finetune.vqa.freeze"] == ("image_decoder", "context_feat_proj")
    assert job.resume == folder.folder / "step-00000002"
    assert job.initial == initial
    assert job.image_loss_weight == 0, "the task's value"
    assert job.text_loss_weight == line.params.model.text_loss_weight, "the model's where the task has none"
    assert "checkpoint passed over" in caplog.text
    (initial / "config.json").write_text("{ }")
    with pytest.raises(StageError, match=r"no checkpoint can be used: .*it is of another training: model is") as error:
        supervise.plan_job(line.params, line.paths, context, "vqa", initial)
    assert error.value.failure is FailureClass.BAD_DATA, "one is damaged, the other of another training"


def test_the_curve_is_written_digit_by_digit(tmp_path: Path) -> None:
    points = [Point(step=step, time_ms=step, metrics={"loss": 0.1 * step, "text_loss": 1 / 3, "image_loss": 0.0}) for step in (1, 2)]
    supervise.write_curve(points, tmp_path / "losses.csv")
    assert (
        tmp_path / "losses.csv"
    ).read_bytes() == b"step,loss,text_loss,image_loss\n1,0.1,0.3333333333333333,0.0\n2,0.2,0.3333333333333333,0.0\n"
    assert supervise.final_losses(points)["loss"] == pytest.approx(0.15)


def test_supervisors_import_no_torch() -> None:
    heavy = ("torch", "mlflow", "lightning", "deepspeed")
    code = f"import sys, components.pretrain, components.finetune; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout == "[]\n"


def test_the_parameters_of_the_repository_load() -> None:
    assert load(ROOT / "params.yaml").training("pretrain").ranks == train_params().ranks == 2


@pytest.fixture
def running(line: Line, store_uri: str, tmp_path: Path) -> tuple[Settings, str]:
    """A repository in which the line's pretraining is a run that goes on, and the MLflow run of its stage."""
    key, digest = "k" * 64, "d" * 32
    settings = Settings(root=tmp_path, tracking_uri=store_uri)
    files = settings.home.run("a-run")
    RunRecord(1, "a-run", 0.0, Request("abc", None, "p" * 64)).write(files.record)
    EventWriter(files.events("pretrain")).started("pretrain", key)
    (files.folder / "dvc.lock").write_text(f"stages: {{prepare: {{outs: [{{path: outputs/index, md5: {digest}.dir}}]}}}}")
    asked = {"documents": {"question": 2, "caption": 1, "multi": 1}, "ranks": 1}
    values = merge(line.params.model_dump(mode="json"), {"evaluate": asked})
    (files.folder / "params.yaml").write_text(json.dumps(values))
    (settings.home.folder / "data").mkdir()
    (settings.home.folder / "data" / digest).symlink_to(line.paths.index)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "shards").symlink_to(line.paths.shards)
    (settings.work_root / key).mkdir(parents=True)
    shutil.copytree(line.root / "work" / "pretrain" / "body", settings.work_root / key / "body")
    client = connect(settings)
    return settings, open_run(client, settings, "pretrain", {"mmfs.stage_key": key})


def test_a_committed_step_is_scored_and_registered_while_training_goes_on(line: Line, running: tuple[Settings, str]) -> None:
    settings, run_id = running
    with pytest.raises(StageError, match="there is no such checkpoint") as error:
        find_committed(settings, "a-run", "pretrain", 3)
    assert error.value.fix == "committed steps of pretrain of run a-run: 2, 4"
    with hold(settings, find_committed(settings, "a-run", "pretrain", 4)) as committed:
        shutil.rmtree(committed.folder.folder / "step-00000004")  # retention drops it meanwhile
        check_scores_and_version(line, settings, run_id, committed)


def test_a_step_that_only_the_second_place_has_is_copied_back(running: tuple[Settings, str], tmp_path: Path) -> None:
    settings, _ = running
    here = find_committed(settings, "a-run", "pretrain", 2)
    second = SecondPlace(open_place(str(tmp_path / "place"), here.key))
    second.claim({})
    second.send(here.checkpoint.path, 2)
    shutil.rmtree(here.checkpoint.path)
    for step in (2, None):  # the newest is the one that is still here
        both = settings.model_copy(update={"checkpoints": str(tmp_path / "place")})
        found = find_committed(both, "a-run", "pretrain", step)
        assert (found.step, found.folder.folder == here.folder.folder) == ((2, False) if step else (4, True))
        with hold(both, found) as held:
            assert verify(held.checkpoint.path).step == found.step
    assert find_committed(both, "a-run", "pretrain", 2).digest == here.digest
    gone = settings.model_copy(update={"checkpoints": str(tmp_path / "nowhere")})
    (tmp_path / "nowhere").write_text("no folder")
    assert [find_committed(gone, "a-run", "pretrain", step).step for step in (4, None)] == [4, 4], "what is here needs no other place"
    shutil.rmtree(here.folder.folder.parent)
    assert find_unfinished(both, "a-run").digest == here.digest
    (tmp_path / "place" / here.key / "step-00000002" / "COMMIT").write_bytes(b"torn")
    shutil.rmtree(settings.work_root / here.key)
    with pytest.raises(StageError, match=r"MMFS_CHECKPOINTS: .*COMMIT is absent or unreadable"):
        find_committed(both, "a-run", "pretrain", 2)


def check_scores_and_version(line: Line, settings: Settings, run_id: str, committed: Committed) -> None:
    client = connect(settings)
    [scores] = evaluate_step(settings, committed, ("vqa",))
    history = client.get_metric_history(run_id, "evaluation/vqa/question_accuracy")
    assert [(one.step, one.value) for one in history] == [(4, getattr(scores.metrics["question_accuracy"], "value", None))]
    assert {one.path.rpartition("/")[2] for one in client.list_artifacts(run_id, scores.place)} >= {
        "samples.jsonl",
        "manifest.json",
        "pictures",
    }

    made = register_step(settings, committed, "vqa")
    assert (made.model, made.version, made.created, made.evaluated) == ("mmfs-vqa", 1, True, (scores.place,))
    version = find_version(client, "mmfs-vqa", 1)
    told = {"mmfs.run_id": "a-run", "mmfs.stage": "pretrain", "mmfs.step": "4", "mmfs.checkpoint": committed.digest, "mmfs.git_sha": "abc"}
    assert told.items() <= version.tags.items()
    assert fetch_evaluated(client, version, scores.manifest).manifest == scores.manifest
    assert committed.folder.pins() == {4: "registered as mmfs-vqa"}
    assert made.digest != WeightsRecord.read(line.paths.pretrain / "weights.json").model_digest
    assert not damaged_files(settings.home.weights / made.digest, describe_weights(settings.home.weights / made.digest))


def test_a_checkpoint_is_sampled_once_when_it_is_due(line: Line) -> None:
    context, tracking = line.context("pretrain")
    job = read_job(context.work.body)
    telemetry = job.train.telemetry.model_copy(update={"samples_every_steps": 3, "sample_documents": 2})
    job = job.model_copy(update={"train": job.train.model_copy(update={"telemetry": telemetry})})
    started: list[str] = []

    def start(module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
        started.append(module)
        draw(*map(Path, arguments))
        return cast(Process, SimpleNamespace(pid=0, poll=lambda: 0))

    seconds = iter(range(100))
    samples = Samples(job, context.tracking, context.events, lambda: float(next(seconds)), start)
    for _ in range(4):
        samples.look()
    assert started == ["components.training.telemetry.sample_rank"]
    [picture] = tracking.artifacts
    assert [path.name for path in (job.work / "samples").iterdir()] == [picture.name] == ["step-00000004.png"]
    with Image.open(picture) as drawn:
        assert drawn.width > 300 and drawn.height > 200


def test_another_run_goes_on_from_a_checkpoint_on_other_ranks(line: Line, running: tuple[Settings, str]) -> None:
    settings, _ = running
    found = find_unfinished(settings, "a-run")
    before = [point for point in read_points(found.folder.folder.parent / "points.jsonl")[0] if "loss" in point["metrics"]]

    def go_on(origin: Continuation, name: str, **differs: object) -> list[Point]:
        context, tracking = line.context(name)
        context.settings = settings  # type: ignore[misc]
        asked = line.params.pretrain.model_copy(update={"continue_from": str(origin), **differs})
        pretrain.run(line.params.model_copy(update={"pretrain": asked}), line.paths, context)
        assert [entry.kind for entry in read_journal(context.work.body / "events.jsonl")[0]] == ["continued"]
        return [point for point in tracking.points if "loss" in point["metrics"]]

    origin = Continuation("a-run", found.step, found.digest)
    curve = go_on(origin, "on one rank", ranks=1)
    assert curve[: found.step] == before[: found.step]
    assert [point["step"] for point in curve] == [point["step"] for point in before]
    for one, other in zip(curve, before, strict=True):
        assert one["metrics"]["loss"] == pytest.approx(other["metrics"]["loss"], rel=1e-5)
    with pytest.raises(StageError, match="is another one than this run goes on from"):
        go_on(Continuation("a-run", 2, "0" * 64), "of another digest")
    with pytest.raises(StageError, match=r"no checkpoint can be used: .*schedule") as error:
        go_on(origin, "of another schedule", learning_rate=1e-9)
    assert error.value.failure is FailureClass.BAD_CONFIG

    shutil.rmtree(found.folder.folder.parent)
    again = go_on(origin, "after the other one's work is gone", ranks=1)
    assert [point["metrics"]["loss"] for point in again] == [point["metrics"]["loss"] for point in curve]
