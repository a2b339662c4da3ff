"""The whole real line at the preset `smoke`: what one command leaves in MLflow, DVC, the registry and the ledger."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from components.params import TASKS
from components.run.paths import Home
from components.run.pipeline import read_pipeline
from components.services.health import call

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def client(trained_line: Any) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{trained_line.root / 'mlflow.db'}")


@pytest.fixture
def children(trained_line: Any, client: MlflowClient) -> dict[str, Run]:
    parent = client.get_run(trained_line.result["mlflow_run_id"])
    found = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return {run.info.run_name: run for run in found}


def test_every_stage_ran_once_and_every_task_has_a_champion(trained_line: Any, client: MlflowClient) -> None:
    stages = ["version", *read_pipeline(trained_line.root / "dvc.yaml"), "archive"]
    assert [(one["stage"], one["state"]) for one in trained_line.result["stages"]] == [(stage, "Completed") for stage in stages]
    assert [(one["task"], one["decision"]) for one in trained_line.result["models"]] == [(task, "promoted") for task in TASKS]
    for task in TASKS:
        version = client.get_model_version_by_alias(f"mmfs-{task}", "champion")
        assert version.tags["mmfs.run_id"] == trained_line.result["run_id"]


def test_each_stage_has_a_finished_child_run_with_what_it_read(trained_line: Any, children: dict[str, Run]) -> None:
    assert set(read_pipeline(trained_line.root / "dvc.yaml")) <= set(children)
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    pretrain = children["pretrain"]
    assert {one.dataset.name for one in pretrain.inputs.dataset_inputs} >= {"outputs/index"}
    assert {"loss", "text_loss", "image_loss", "lr", "grad_norm"} <= set(pretrain.data.metrics)
    assert "question_accuracy" in children["evaluate@vqa"].data.metrics


def test_the_loss_curve_has_a_point_a_step(client: MlflowClient, children: dict[str, Run]) -> None:
    steps = [point.step for point in client.get_metric_history(children["pretrain"].info.run_id, "loss")]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6]


def test_dvc_shows_the_run_as_an_experiment_with_its_metrics(trained_line: Any) -> None:
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
    shown = subprocess.run(command, cwd=trained_line.root, env=trained_line.environment, capture_output=True, text=True, check=True)
    assert trained_line.result["run_id"] in shown.stdout
    assert "question_accuracy" in shown.stdout


def test_applied_and_pulled_a_run_leaves_dvc_repro_nothing_to_do(trained_line: Any, tmp_path: Path) -> None:
    root = tmp_path / "a checkout"
    shutil.copytree(trained_line.root, root, symlinks=True)
    told = []
    for arguments in (["exp", "apply", trained_line.result["run_id"]], ["pull", "--allow-missing"], ["repro"]):
        command = [sys.executable, "-m", "dvc", *arguments]
        told.append(subprocess.run(command, cwd=root, env=trained_line.environment, capture_output=True, text=True, check=True).stdout)
    assert "Running stage" not in told[-1]
    assert "Data and pipelines are up to date." in told[-1]


def test_the_remote_holds_the_input_and_every_out(trained_line: Any) -> None:
    lineage = json.loads(Home(trained_line.root).run(trained_line.result["run_id"]).lineage.read_text())
    remote = Home(trained_line.root).remote / "files" / "md5"
    assert {"data/input", "outputs/index", "outputs/pretrain/weights.json"} <= set(lineage["data"])
    for md5 in lineage["data"].values():
        assert (remote / md5[:2] / md5[2:]).is_file()


def test_the_registered_model_holds_no_pickle_and_its_weights(client: MlflowClient) -> None:
    version = client.get_model_version_by_alias("mmfs-story", "champion")
    location = client.get_logged_model(version.source.removeprefix("models:/")).artifact_location
    folder = Path(unquote(urlsplit(location).path))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert "model.safetensors" in names
    assert not {name for name in names if name.endswith((".pkl", ".pt", ".bin", ".pickle"))}


def test_the_report_is_one_file_that_names_the_run_everywhere(trained_line: Any) -> None:
    page = Path(trained_line.result["report"]).read_text(encoding="utf-8")
    for name in ("run_id", "mlflow_run_id", "prefect_flow_run_id"):
        assert trained_line.result[name] in page
    assert "data:image/png;base64," in page


def test_an_unchanged_second_run_computes_nothing_and_changes_nothing(local_stack: Any, stack_runs: Any) -> None:
    again = stack_runs.unchanged
    assert again["status"] == "Completed"
    assert {one["state"] for one in again["stages"] if one["stage"] not in ("version", "archive")} == {"Cached"}
    assert [(one["version"], one["decision"]) for one in again["models"]] == [(1, "unchanged")] * len(TASKS)
    verified = json.loads(local_stack.mmfs("models", "verify", "--json").stdout)
    assert verified == {"models": [f"mmfs-{task}" for task in sorted(TASKS)], "differences": []}


def test_a_run_shows_in_the_servers_that_are_up_and_so_does_one_from_before(trained_line: Any, local_stack: Any, stack_runs: Any) -> None:
    for run in (trained_line.result, stack_runs.unchanged):
        assert call(f"{local_stack.api}/flow_runs/{run['prefect_flow_run_id']}")["name"] == run["run_id"]
        told = call(f"{local_stack.urls['mlflow']}/api/2.0/mlflow/runs/get?run_id={run['mlflow_run_id']}")["run"]
        assert (told["info"]["run_name"], told["info"]["status"]) == (run["run_id"], "FINISHED")
    artifacts = call(
        f"{local_stack.api}/artifacts/filter", {"flow_runs": {"id": {"any_": [trained_line.result["prefect_flow_run_id"]]}}, "limit": 200}
    )
    pictures = {one["key"] for one in artifacts if "data:image/png;base64," in str(one["data"])}
    assert pictures >= {f"picture-evaluate-{task}" for task in TASKS}
