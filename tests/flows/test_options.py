"""What a run came to, as scripts read it: the times add up under one name each."""

from __future__ import annotations

import json

import pytest

from flows.cli_run import show
from flows.options import RunResult, StageOutcome

RESULT = RunResult(
    run_id="r",
    status="Completed",
    mlflow_run_id="m",
    prefect_flow_run_id="p",
    experiment="r",
    stages=(StageOutcome("prepare", "Completed", 3.0), StageOutcome("pretrain", "Cached", 2.0)),
    models=(),
    report=None,
    seconds=9.0,
    opening_seconds=1.5,
)


def test_wall_time_is_processes_and_orchestration(capsys: pytest.CaptureFixture[str]) -> None:
    show(RESULT, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert {name: value for name, value in told.items() if name.endswith("seconds")} == {
        "seconds": 9.0,
        "process_seconds": 5.0,
        "orchestration_seconds": 4.0,
        "opening_seconds": 1.5,
    }
    show(RESULT, as_json=False)
    assert "Completed in 9 s (stage processes 5, orchestration 4): run r" in capsys.readouterr().out
