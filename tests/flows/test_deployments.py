"""`mmfs up` and `prefect deploy` over a small line: a due schedule starts a run that Prefect shows, and `mmfs cancel` stops one cleanly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_line import FILES, METRIC, SmallLine

from components.services.health import call

pytestmark = pytest.mark.timeout(900)


class Served:
    """A small line whose servers run; commands are given as a user gives them."""

    def __init__(self, line: SmallLine) -> None:
        self.line = line
        self.environment = {**line.environment, "PYTHONPATH": str(line.root)}

    def mmfs(self, *arguments: str) -> Any:
        return json.loads(self.python("-m", "flows.cli", *arguments, "--json"))

    def python(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.line.root, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def api(self) -> str:
        return next(one["url"] for one in self.mmfs("status") if one["name"] == "prefect") + "/api"

    def flow_runs(self, deployment: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = call(f"{self.api}/flow_runs/filter", {"deployments": {"name": {"any_": [deployment]}}})
        return rows


@pytest.fixture(scope="module")
def served(checkout: Callable[..., Path], child_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = checkout(tmp_path_factory.mktemp("served") / "repository", FILES)
    deployments = (root / "prefect.yaml").read_text().replace('cron: "0 2 * * *"', 'cron: "* * * * *"')
    (root / "prefect.yaml").write_text(deployments.replace("overrides: []", 'overrides: ["tasks=[vqa]"]'))
    line = SmallLine(root, child_environment)
    line.commit("every minute")
    line.publish(0)
    served = Served(line)
    served.mmfs("up")
    try:
        served.python("-m", "prefect", "--no-prompt", "deploy", "--all")
        yield served
    finally:
        served.mmfs("down")


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 400
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.5)
    return value


def test_a_due_schedule_starts_a_run_that_every_tool_shows(served: Served) -> None:
    api = served.api
    ended = until(lambda: [run for run in served.flow_runs("nightly") if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")])[0]
    schedules = call(f"{api}/deployments/{ended['deployment_id']}")["schedules"]
    assert ended["state_type"] == "COMPLETED", ended["state"]
    assert [schedule["schedule"]["cron"] for schedule in schedules] == ["* * * * *"]
    shown = next(run for run in served.mmfs("runs") if run["run_id"] == ended["name"])
    assert (shown["state"], shown["prefect_flow_run_id"], shown["experiment"]) == ("Completed", ended["id"], ended["name"])
    assert served.line.client.get_run(shown["mlflow_run_id"]).info.run_name == ended["name"]
    tasks = call(f"{api}/task_runs/filter", {"flow_runs": {"id": {"any_": [ended["id"]]}}})
    assert {"version", "prepare", "pretrain", "finetune@vqa", "evaluate@vqa", "report"} <= {task["name"] for task in tasks}
    artifacts = call(f"{api}/artifacts/filter", {"flow_runs": {"id": {"any_": [ended["id"]]}}})
    assert {"progress-pretrain", "identities", "mlflow-run"} <= {artifact["key"] for artifact in artifacts}
    assert METRIC in json.dumps(shown["result"])


def test_cancel_stops_a_deployments_run_and_everything_it_started(served: Served) -> None:
    hang = served.line.trouble / "pretrain"
    hang.write_text("hang")
    served.python("-m", "prefect", "deployment", "run", "train/manual", "--param", 'overrides=["tasks=[vqa]", "seed=5"]')
    until(lambda: not hang.exists())
    run = next(run for run in served.mmfs("runs") if run["state"] == "Running" and _hangs(served, run["run_id"]))
    ended = served.mmfs("cancel", run["run_id"])
    assert ended["state"] == "Cancelled"
    assert served.line.client.get_run(run["mlflow_run_id"]).info.status == "KILLED"
    flow_run = until(lambda: [one for one in served.flow_runs("manual") if one["state_type"] == "CANCELLED"])[0]
    assert flow_run["name"] == run["run_id"]
    assert not _processes_of(served, "stage.py pretrain")


def _hangs(served: Served, run_id: str) -> bool:
    return '"pretrain"' in (served.line.root / ".mmfs" / "runs" / run_id / "events" / "pretrain.jsonl").read_text()


def _processes_of(served: Served, words: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            mine = os.readlink(path / "cwd").startswith(str(served.line.root))
        except OSError:
            continue
        if mine and words in command:
            found.append(command)
    return found
