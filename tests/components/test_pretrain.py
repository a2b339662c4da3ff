"""The training stages on the real model and data at the smoke size, down to outs and published weights."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from training_world import train_params

from components import finetune, prepare, pretrain
from components.checkpoints.folder import CheckpointFolder
from components.data.sources.digits import export_digits
from components.launch.local import DeadRank
from components.params import Params, load, merge, parse, read_mapping
from components.run.events import EventWriter, read_events
from components.run.failures import FailureClass, StageError
from components.run.main import StageContext
from components.run.paths import Paths
from components.run.work import WorkFolder
from components.settings import Settings
from components.tracking.spool import Point
from components.tracking.weights import WeightsRecord, damaged_files
from components.training import supervise
from components.training.attempts import failure_of
from components.training.identity import info_of
from components.training.job import read_job, write_failure

ROOT = Path(__file__).resolve().parents[2]


class Tracking:
    """Keeps what a stage tells MLflow."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.tags: dict[str, object] = {}
        self.models: list[dict[str, Any]] = []

    def log_metrics(self, points: list[Point]) -> None:
        self.points += points

    def set_tags(self, tags: dict[str, object]) -> None:
        self.tags |= tags

    def publish_model(self, folder: Path, weights: dict[str, Any]) -> None:
        self.models.append(weights)


class Line:
    """A checkout with a prepared smoke corpus, in which training stages are called as their main would."""

    def __init__(self, root: Path) -> None:
        self.root, self.paths = root, Paths(root)
        self.settings = Settings(root=root)
        values = merge(read_mapping(ROOT / "params.yaml"), read_mapping(ROOT / "params" / "smoke.yaml"))
        self.params: Params = parse(values)
        export_digits(self.paths.input / "digits")
        prepare.run(self.params, self.paths, self.context("prepare")[0])

    def context(self, name: str) -> tuple[StageContext, Tracking]:
        work = WorkFolder(self.root / "work" / name, self.root)
        work.body.mkdir(parents=True, exist_ok=True)
        tracking, events = Tracking(), EventWriter(self.root / "events" / f"{name}.jsonl")
        context = SimpleNamespace(name=name, work=work, events=events, tracking=tracking, settings=self.settings, device="cpu")
        return cast(StageContext, context), tracking


@pytest.fixture(autouse=True)
def _warm(warm: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in warm.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return Line(tmp_path_factory.mktemp("line of training"))


def test_a_pretrained_model_is_fine_tuned_and_both_are_published(line: Line) -> None:
    context, tracking = line.context("pretrain")
    result = pretrain.run(line.params, line.paths, context)
    weights = WeightsRecord.read(line.paths.pretrain / "weights.json")
    assert [file.name for file in weights.files] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert result.model_digest == weights.model_digest == tracking.models[0]["model_digest"]
    assert not damaged_files(line.settings.home.weights / weights.model_digest, weights)
    rows = list(csv.DictReader((line.paths.pretrain / "losses.csv").read_text().splitlines()))
    assert (
        [int(row["step"]) for row in rows] == [point["step"] for point in tracking.points] == list(range(1, line.params.pretrain.steps + 1))
    )
    names = {"loss", "text_loss", "image_loss", "lr", "grad_norm", "tokens_per_second", "images_per_second"}
    assert all(set(point["metrics"]) == names for point in tracking.points)
    assert json.loads((line.paths.pretrain / "metrics.json").read_text()) == dict(result.metrics)
    progress = [event for event in read_events(line.root / "events" / "pretrain.jsonl") if event.name == "progress"]
    assert progress[-1].values["done"] == progress[-1].values["total"] == line.params.pretrain.steps

    context, _ = line.context("finetune-vqa")
    tuned = finetune.run(line.params, line.paths, context, task="vqa")
    assert tuned.model_digest != result.model_digest
    assert tuned.metrics["image_loss"] == 0
    assert read_job(context.work.body).initial == line.settings.home.weights / weights.model_digest
    assert WeightsRecord.read(line.paths.finetune("vqa") / "weights.json").config == weights.config


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
        supervise.train(params, line.paths, context, "vqa", line.paths.finetune("vqa"), pretrain.model_config(params, line.paths))
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
