"""Runs are listed, read and cancelled by their names, whoever started them."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.run import workspace
from components.run.paths import Home
from components.run.record import RunRecord, RunRecords, write_result

NOT_FOUND = 66
REQUEST = workspace.Request("sha", None, "params")
OWNER = """
import signal, sys
from dataclasses import replace
from pathlib import Path
from components.run import workspace
from components.run.lease import Lease
from components.run.paths import Home
files = Home(Path(sys.argv[1])).run("20261121-000001-abcd")
record = workspace.RunRecord(workspace.VERSION, "20261121-000001-abcd", 2.0, workspace.Request("sha", None, "params"))
record.write(files.record)
lease = Lease(files.folder, lambda: None)
lease.try_acquire()
def end(number, frame):
    replace(record, state="cancelled").write(files.record)
    lease.release()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def finished(repository: Path) -> RunRecord:
    """A run that ended well after a minute."""
    files = Home(repository).run("20261121-000000-abcd")
    names = {"mlflow_run_id": "m" * 32, "prefect_flow_run_id": "p" * 36, "experiment": "an-experiment"}
    workspace.RunRecord(workspace.VERSION, files.folder.name, 1.0, REQUEST, "finished", **names).write(files.record)
    write_result(files, 62.0, {"status": "Completed"})
    return RunRecords(Home(repository)).find(files.folder.name)


def write_log(repository: Path, run: RunRecord, stage: str, text: str) -> Path:
    log = Home(repository).run(run.run_id).log(stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(text)
    return log


def test_runs_names_all_three_identities(mmfs, finished: RunRecord) -> None:
    (told,) = json.loads(mmfs("runs", "--json").out)
    assert told["run_id"] == finished.run_id
    assert (told["mlflow_run_id"], told["prefect_flow_run_id"], told["experiment"]) == ("m" * 32, "p" * 36, "an-experiment")
    shown = mmfs("runs").out
    for part in (finished.run_id, "Completed", "61 s", "m" * 8, "p" * 8, "an-experiment"):
        assert part in shown


def test_a_run_took_what_its_command_said_not_the_days_until_it_was_taken_up(mmfs, repository: Path, finished: RunRecord) -> None:
    write_result(Home(repository).run(finished.run_id), 500_000.0, {"status": "Completed", "seconds": 37.4})
    assert " 37 s " in mmfs("runs").out


def test_the_name_of_a_run_stays_whole_on_a_narrow_terminal(mmfs, finished: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert finished.run_id in mmfs("runs").out


def test_no_runs_yet(mmfs, repository: Path) -> None:
    assert "mmfs run" in mmfs("runs").out
    assert json.loads(mmfs("runs", "--json").out) == []


@pytest.mark.parametrize("command", ["logs", "cancel"])
def test_no_such_run(mmfs, finished: RunRecord, command: str) -> None:
    ended = mmfs(command, "1999")
    assert (ended.status, ended.err.count("\n")) == (NOT_FOUND, 1)
    assert "'1999' fits no run" in ended.err
    assert "`mmfs runs`" in ended.err


def test_logs_of_all_stages_and_of_one(mmfs, repository: Path, finished: RunRecord) -> None:
    write_log(repository, finished, "prepare", "packing\n")
    write_log(repository, finished, "finetune@vqa", "step 1\nhalf a line")
    both = mmfs("logs", finished.run_id).out.splitlines()
    assert sorted(line.split(maxsplit=1) for line in both) == [
        ["finetune-vqa", "half a line"],
        ["finetune-vqa", "step 1"],
        ["prepare", "packing"],
    ]
    assert mmfs("logs", finished.run_id[:12], "--stage", "finetune@vqa").out == "step 1\nhalf a line\n"
    absent = mmfs("logs", "latest", "--stage", "pretrain")
    assert absent.status == NOT_FOUND
    assert "finetune-vqa, prepare" in absent.err


def test_follow_prints_what_is_written_until_the_run_ends(mmfs, repository: Path) -> None:
    with running(repository) as (owner, run):
        write_log(repository, run, "prepare", "first\n")

        def go_on() -> None:
            time.sleep(0.5)
            write_log(repository, run, "prepare", "second\n")
            write_log(repository, run, "pretrain", "third\n")
            owner.terminate()

        writer = threading.Thread(target=go_on)
        writer.start()
        told = mmfs("logs", "latest", "-f").out
        writer.join()
    assert [line.split()[1] for line in told.splitlines()] == ["first", "second", "third"]


def test_cancel_ends_the_process_and_says_how(mmfs, repository: Path) -> None:
    with running(repository) as (owner, run):
        told = json.loads(mmfs("cancel", run.run_id, "--json").out)
        assert owner.wait() == 0
    assert (told["run_id"], told["state"]) == (run.run_id, "Cancelled")
    again = mmfs("cancel", run.run_id)
    assert again.status == NOT_FOUND
    assert "is not running: Cancelled" in again.err


def test_run_whose_process_was_killed_is_shown_as_killed(mmfs, repository: Path) -> None:
    with running(repository) as (owner, run):
        owner.kill()
        owner.wait()
    assert [one["state"] for one in json.loads(mmfs("runs", "--json").out)] == ["Killed"]
    assert "is not running: Killed" in mmfs("cancel", run.run_id).err


@contextmanager
def running(repository: Path) -> Iterator[tuple[subprocess.Popen[str], RunRecord]]:
    """A process that runs a run and ends it when told to."""
    source = Path(__file__).parents[2]
    command = [sys.executable, "-c", OWNER, str(repository)]
    with subprocess.Popen(command, cwd=source, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "ready\n"
            yield owner, RunRecords(Home(repository)).find("latest")
        finally:
            owner.kill()
