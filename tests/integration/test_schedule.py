"""Schedules and workers for real: `mmfs up`, `prefect deploy`, a due schedule, a cancelled run, and nothing left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from components.services import health
from components.services.process import Record, read_record

pytestmark = pytest.mark.timeout(1800)
PATIENCE_S = 900


def wait_for(question: Callable[[], Any], what: str) -> Any:
    """The first answer that is not None or false."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := question()):
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE_S} s"
        time.sleep(0.5)
    return answer


def worker(stack: Any) -> Record:
    record = read_record(stack.root / ".mmfs" / "services" / "worker.json")
    assert record is not None
    return record


def runs(stack: Any) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(stack.mmfs("runs", "--json").stdout)
    return told


@pytest.fixture(scope="module")
def deployed(local_stack: Any) -> None:
    """Every deployment of prefect.yaml is on the server."""
    local_stack.prefect("deploy", "--all")


def test_up_again_changes_nothing(local_stack: Any) -> None:
    before = json.loads(local_stack.mmfs("status", "--json").stdout)
    again = json.loads(local_stack.mmfs("up", "--json").stdout)
    assert again == before
    assert {service["name"]: service["state"] for service in again} == {"prefect": "healthy", "mlflow": "healthy", "worker": "healthy"}


def test_all_deployments_reach_the_server(local_stack: Any, deployed: None) -> None:
    found = health.call(f"{local_stack.api}/deployments/filter", {})
    schedules = {one["name"]: [schedule["schedule"].get("cron") for schedule in one["schedules"]] for one in found}
    assert schedules.items() >= {"manual": [], "nightly": ["0 2 * * *"], "reproduce": [], "promote": [], "rollback": []}.items()
    assert {one["work_pool_name"] for one in found} == {"mmfs-local"}


def test_due_schedule_starts_a_run_that_the_worker_finishes(local_stack: Any, stack_runs: Any) -> None:
    ended = stack_runs.scheduled
    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    assert ended["auto_scheduled"] is True
    (run,) = [run for run in runs(local_stack) if run["prefect_flow_run_id"] == ended["id"]]
    assert (run["state"], ended["name"]) == ("Completed", run["run_id"])
    tasks = health.call(f"{local_stack.api}/task_runs/filter", {"flow_runs": {"id": {"any_": [ended["id"]]}}})
    assert {task["name"]: task["state"]["name"] for task in tasks}.items() >= {"pretrain": "Cached", "evaluate@vqa": "Completed"}.items()
    artifacts = health.call(f"{local_stack.api}/artifacts/filter", {"flow_runs": {"id": {"any_": [ended["id"]]}}})
    assert {"progress", "markdown"} <= {artifact["type"] for artifact in artifacts}
    assert any(artifact["key"] == "picture-evaluate-vqa" and "data:image/png;base64," in artifact["data"] for artifact in artifacts)


def test_cancel_ends_a_workers_run_with_all_its_processes(local_stack: Any, deployed: None) -> None:
    idle = {process.pid for process in worker(local_stack).members()}
    deployment = health.call(f"{local_stack.api}/deployments/name/train/manual")["id"]
    parameters = {"preset": "smoke", "overrides": ["tasks=[vqa]", "pretrain.steps=100000"]}
    started = health.call(f"{local_stack.api}/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
    run = wait_for(lambda: next((one for one in runs(local_stack) if one["prefect_flow_run_id"] == started), None), "run of the worker")
    log = local_stack.root / ".mmfs" / "runs" / run["run_id"] / "events" / "pretrain.jsonl"
    wait_for(lambda: log.exists() and '"progress"' in log.read_text(), "progress of pretrain")
    assert len(worker(local_stack).members()) > len(idle)
    cancelled = local_stack.mmfs("cancel", run["run_id"], "--json")
    assert cancelled.returncode == 0, cancelled.stderr
    assert json.loads(cancelled.stdout)["state"] == "Cancelled"
    wait_for(lambda: health.call(f"{local_stack.api}/flow_runs/{started}")["state"]["type"] == "CANCELLED", "cancelled flow run")
    wait_for(lambda: {process.pid for process in worker(local_stack).members()} <= idle, "end of its processes")
