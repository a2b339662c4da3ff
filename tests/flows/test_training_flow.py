"""The flow over a small line: how it ends, what it leaves, and that the same command goes on. Everything but the stages is real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_line import FILES, STAGES, SmallLine

from components.run.paths import Home
from components.services.health import call

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def line(
    checkout: Callable[..., Path], prefect_api: str, child_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> SmallLine:
    folder = tmp_path_factory.mktemp("a line with spaces")
    return SmallLine(checkout(folder / "repository", FILES), {**child_environment, "PREFECT_API_URL": prefect_api})


@pytest.fixture(scope="module")
def first(line: SmallLine) -> dict[str, Any]:
    """The result of a run that computed everything."""
    line.publish(0)
    result = line.run()
    assert result["status"] == "Completed", result
    return result


def task_states(api: str, result: dict[str, Any]) -> dict[str, str]:
    rows = call(f"{api}/task_runs/filter", {"flow_runs": {"id": {"any_": [result["prefect_flow_run_id"]]}}})
    return {row["name"]: row["state"]["name"] for row in rows}


def flow_state(api: str, flow_run_id: str) -> tuple[str, str]:
    row = call(f"{api}/flow_runs/{flow_run_id}")
    return row["state"]["type"], row["state"]["name"]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def stage_processes(line: SmallLine) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        environment = process.info["environ"] or {}
        if environment.get("TROUBLE") == str(line.trouble) and "stage.py" in " ".join(process.info["cmdline"] or ()):
            found.append(process)
    return found


def hang_in(line: SmallLine, stage: str, *overrides: str) -> subprocess.Popen[str]:
    """A run that hangs in a stage."""
    (line.trouble / stage).write_text("hang")
    process = line.start(*overrides)
    until(lambda: process.poll() is not None or not (line.trouble / stage).exists())
    assert process.poll() is None, process.communicate()[1]
    assert stage_processes(line)
    return process


def test_every_stage_ran_and_the_model_was_promoted(first: dict[str, Any]) -> None:
    assert first["continued"] is False
    assert [(one["stage"], one["state"]) for one in first["stages"]] == [(stage, "Completed") for stage in STAGES]
    assert [(one["name"], one["version"], one["decision"]) for one in first["models"]] == [("mmfs-vqa", 1, "promoted")]
    assert first["seconds"] > first["process_seconds"] > 0


def test_one_name_in_prefect_mlflow_and_dvc(line: SmallLine, first: dict[str, Any], prefect_api: str) -> None:
    run_id = first["run_id"]
    assert call(f"{prefect_api}/flow_runs/{first['prefect_flow_run_id']}")["name"] == run_id
    parent = line.client.get_run(first["mlflow_run_id"])
    assert (parent.info.run_name, parent.info.status) == (run_id, "FINISHED")
    references = subprocess.run(["git", "for-each-ref", "refs/exps"], cwd=line.root, capture_output=True, text=True, check=True).stdout
    assert first["experiment"] == run_id
    assert f"/{run_id}\n" in references


def test_the_run_leaves_its_lineage_with_the_run_and_the_version_and_no_checkout(line: SmallLine, first: dict[str, Any]) -> None:
    lineage = json.loads(Home(line.root).run(first["run_id"]).lineage.read_text())
    version = line.client.get_model_version_by_alias("mmfs-vqa", "champion")
    run = line.client.get_run(first["mlflow_run_id"])
    assert set(lineage["stage_keys"]) == set(STAGES) - {"version", "archive"}
    assert version.tags["mmfs.lineage"] == run.data.tags["mmfs.lineage"] == lineage["digest"]
    logged = {file.path for file in line.client.list_artifacts(first["mlflow_run_id"], "lineage")}
    assert logged == {"lineage/lineage.json", "lineage/dvc.lock", "lineage/params.yaml"}
    assert run.data.params["tasks"] == "['vqa']"
    assert not list(Home(line.root).worktrees.iterdir())
    assert Path(first["report"]).read_text().count(first["run_id"]) > 0


def test_prefect_shows_states_progress_and_names(first: dict[str, Any], prefect_api: str) -> None:
    until(lambda: task_states(prefect_api, first).get("report") == "Completed")
    assert {task_states(prefect_api, first)[stage] for stage in STAGES} == {"Completed"}
    assert flow_state(prefect_api, first["prefect_flow_run_id"]) == ("COMPLETED", "Completed")
    artifacts = call(f"{prefect_api}/artifacts/filter", {"flow_runs": {"id": {"any_": [first["prefect_flow_run_id"]]}}})
    kinds = {row["key"]: row for row in artifacts}
    assert kinds["progress-finetune-vqa"]["data"] == 50.0
    assert first["mlflow_run_id"] in kinds["identities"]["data"]
    logs = call(f"{prefect_api}/logs/filter", {"logs": {"flow_run_id": {"any_": [first["prefect_flow_run_id"]]}}})
    assert "pretrain: 1 of 2 steps, loss 0.5" in [line["message"] for line in logs]


def test_an_unchanged_second_run_is_cached_and_decides_nothing_new(line: SmallLine, first: dict[str, Any], prefect_api: str) -> None:
    again = line.run()
    assert again["run_id"] != first["run_id"]
    assert {one["state"] for one in again["stages"] if one["stage"] not in ("version", "archive")} == {"Cached"}
    assert [(one["version"], one["decision"]) for one in again["models"]] == [(1, "unchanged")]
    until(lambda: task_states(prefect_api, again).get("evaluate@vqa") == "Cached")
    children = line.client.search_runs(
        [line.client.get_run(again["mlflow_run_id"]).info.experiment_id], f"tags.`mlflow.parentRunId` = '{again['mlflow_run_id']}'"
    )
    cached = {run.info.run_name: run for run in children if run.data.tags.get("mmfs.cached")}
    assert set(cached) == set(STAGES) - {"version", "archive"}
    assert cached["finetune@vqa"].data.metrics["loss"] == 0.25
    assert {run.info.status for run in children} == {"FINISHED"}


def test_a_bug_fails_the_run_at_once_and_is_named_everywhere(line: SmallLine, prefect_api: str) -> None:
    (line.trouble / "pretrain").write_text("bug\nbug")
    failed = line.run("seed=10")
    (line.trouble / "pretrain").unlink()  # the second attempt that never came
    assert (failed["status"], failed["message"], failed["fix"]) == ("Failed", "made to fail", "take the trouble away")
    assert [(one["stage"], one["failure"]) for one in failed["stages"]][-1] == ("pretrain", "bug")
    assert line.client.get_run(failed["mlflow_run_id"]).info.status == "FAILED"
    assert flow_state(prefect_api, failed["prefect_flow_run_id"]) == ("FAILED", "bug")
    until(lambda: task_states(prefect_api, failed).get("pretrain") == "bug")
    assert "bug: made to fail" in Path(failed["report"]).read_text()


def test_an_infrastructure_failure_is_tried_again(line: SmallLine) -> None:
    line.publish(11)
    (line.trouble / "finetune@vqa").write_text("infrastructure")
    result = line.run("seed=11")
    assert result["status"] == "Completed"
    assert any(stage == "finetune@vqa" and "trying again" in message for stage, _, message in result["told"])


def test_sigterm_cancels_the_run_and_everything_it_started(line: SmallLine, prefect_api: str) -> None:
    process = hang_in(line, "pretrain", "seed=12")
    process.send_signal(signal.SIGTERM)
    result = line.wait(process)
    assert result["status"] == "Cancelled"
    assert not stage_processes(line)
    assert line.client.get_run(result["mlflow_run_id"]).info.status == "KILLED"
    assert flow_state(prefect_api, result["prefect_flow_run_id"]) == ("CANCELLED", "Cancelled")


def test_after_a_kill_the_same_command_goes_on_as_the_same_run(line: SmallLine, prefect_api: str) -> None:
    line.publish(13)
    process = hang_in(line, "finetune@vqa", "seed=13")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not stage_processes(line))
    record = max(Home(line.root).folder.glob("runs/*/run.json"), key=lambda path: path.stat().st_mtime)
    killed = json.loads(record.read_text())

    result = line.run("seed=13")
    assert (result["run_id"], result["continued"], result["status"]) == (killed["run_id"], True, "Completed")
    assert result["mlflow_run_id"] == killed["mlflow_run_id"]
    assert line.client.get_run(result["mlflow_run_id"]).info.status == "FINISHED"
    assert {one["stage"]: one["state"] for one in result["stages"]}["pretrain"] == "Cached"
    assert result["prefect_flow_run_id"] != killed["prefect_flow_run_id"]
    assert flow_state(prefect_api, killed["prefect_flow_run_id"])[0] == "CRASHED"


def test_a_run_of_uncommitted_source_says_so_and_is_not_promotable(line: SmallLine, prefect_api: str) -> None:
    line.publish(14)
    (line.root / "stage.py").write_text(FILES["stage.py"] + "\n# changed\n")
    try:
        result = line.run("seed=14")
    finally:
        (line.root / "stage.py").write_text(FILES["stage.py"])
    assert [one["decision"] for one in result["models"]] == ["not promotable"]
    assert "commit them" in result["models"][0]["reasons"][0]
    files = Home(line.root).run(result["run_id"])
    assert "+# changed" in files.patch.read_text()
    warning = result["models"][0]["reasons"][0]
    assert warning.startswith("1 source file was changed without a commit")
    assert result["told"][0] == ["source", "Changed", warning]
    assert line.client.get_run(result["mlflow_run_id"]).data.tags["mmfs.changed_files"] == "1"
    assert warning in files.report.read_text()
    logs = call(f"{prefect_api}/logs/filter", {"logs": {"flow_run_id": {"any_": [result["prefect_flow_run_id"]]}}})
    assert warning in [log["message"] for log in logs]


def test_bad_parameters_end_before_any_work(line: SmallLine) -> None:
    process = line.start("pretrain.stepz=3")
    _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "pretrain.stepz: unknown key; did you mean `steps`?" in error
