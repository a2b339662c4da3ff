"""Runs are listed with the state they are really in, found by name, and cancelled through their process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from components.run import workspace
from components.run.lease import Owner
from components.run.paths import Home
from components.run.record import RunRecords, UnknownRun, write_result

DEAD = replace(Owner.myself(), pid=2**22 + 1)
REQUEST = workspace.Request("sha", None, "params")


@pytest.fixture
def records(tmp_path: Path) -> RunRecords:
    return RunRecords(Home(tmp_path))


def write(records: RunRecords, run_id: str, state: workspace.State, owner: Owner | None, created: float = 1.0) -> None:
    files = records.home.run(run_id)
    workspace.RunRecord(workspace.VERSION, run_id, created, REQUEST, state, "m", "p", "e").write(files.record)
    if owner is not None:
        (files.folder / "lease.json").write_text(json.dumps(asdict(owner)))


def test_the_state_is_the_real_one(records: RunRecords) -> None:
    write(records, "alive", "open", Owner.myself())
    write(records, "killed", "open", DEAD)
    write(records, "lost", "open", None)
    write(records, "done", "finished", None)
    write(records, "bad", "failed", None)
    write(records, "off", "cancelled", None)
    states = {run.run_id: run.state for run in records.all()}
    assert states == {"alive": "Running", "killed": "Killed", "lost": "Killed", "done": "Completed", "bad": "Failed", "off": "Cancelled"}


def test_a_run_tells_its_names_and_what_it_came_to(records: RunRecords) -> None:
    write(records, "done", "finished", None)
    write_result(records.home.run("done"), 9.0, {"stages": [{"stage": "prepare"}], "report": Path("x")})
    run = records.find("done")
    assert (run.mlflow_run_id, run.prefect_flow_run_id, run.experiment, run.ended) == ("m", "p", "e", 9.0)
    assert run.result == {"stages": [{"stage": "prepare"}], "report": "x"}


def test_a_run_is_found_by_name_beginning_or_as_the_latest(records: RunRecords) -> None:
    for number, name in enumerate(("2026a", "2026b", "2025")):
        write(records, name, "finished", None, created=float(number))
    assert records.find("latest").run_id == "2025"
    assert records.find("2026b").run_id == "2026b"
    assert records.find("2025").run_id == "2025"
    with pytest.raises(UnknownRun, match="fits no run"):
        records.find("1999")
    with pytest.raises(UnknownRun, match="'2026' fits 2026b, 2026a"):
        records.find("2026")


def test_an_unreadable_or_newer_record_is_no_run(records: RunRecords) -> None:
    write(records, "a", "finished", None)
    path = records.home.run("a").record
    path.write_text(path.read_text().replace(f'"version": {workspace.VERSION}', '"version": 99'))
    assert records.all() == []
    path.write_text("{")
    assert records.all() == []


def test_cancel_ends_the_process_of_a_living_run_once(records: RunRecords) -> None:
    code = (
        "import json, time; from dataclasses import asdict; from components.run.lease import Owner\n"
        "print(json.dumps(asdict(Owner.myself())), flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=os.getcwd()) as process:
        assert process.stdout is not None
        write(records, "run", "open", Owner(**json.loads(process.stdout.readline())))
        assert records.find("run").state == "Running"
        assert records.cancel(records.find("run"))
        assert process.wait(timeout=30) == -signal.SIGTERM
    assert records.find("run").state == "Killed"
    assert not records.cancel(records.find("run"))
