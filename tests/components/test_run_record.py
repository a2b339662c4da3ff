"""The same command finds its unfinished run again, and only that one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.run.lease import Owner
from components.run.paths import Home
from components.run.record import RunRecords, UnknownRun

DEAD = replace(Owner.myself(), pid=2**22 + 1)


@pytest.fixture
def records(tmp_path: Path) -> RunRecords:
    return RunRecords(Home(tmp_path))


def test_an_equal_run_whose_process_is_gone_goes_on_under_its_name(records: RunRecords) -> None:
    first, continued = records.claim("inputs", {"preset": "smoke"})
    assert not continued
    records.write(replace(first, owner=DEAD, mlflow_run_id="m"))
    again, continued = records.claim("inputs", {})
    assert continued
    assert (again.run_id, again.mlflow_run_id, again.attempts, again.asked) == (first.run_id, "m", 2, {"preset": "smoke"})
    assert again.is_alive()


@pytest.mark.parametrize("state", ["Failed", "Cancelled"])
def test_a_failed_or_cancelled_run_goes_on_too(records: RunRecords, state: str) -> None:
    first, _ = records.claim("inputs", {})
    records.write(replace(first, state=state, message="why"))
    again, continued = records.claim("inputs", {})
    assert (again.run_id, again.message, continued) == (first.run_id, "", True)


def test_a_completed_a_living_another_or_an_unwanted_run_is_not_continued(records: RunRecords) -> None:
    living, _ = records.claim("inputs", {})
    assert records.claim("inputs", {})[1] is False
    records.write(replace(living, state="Completed"))
    other, _ = records.claim("other", {})
    records.write(replace(other, owner=DEAD))
    names = {records.claim("third", {})[0].run_id, records.claim("other", {}, fresh=True)[0].run_id}
    assert names.isdisjoint({living.run_id, other.run_id})


def test_a_run_is_found_by_name_beginning_or_as_the_latest(records: RunRecords) -> None:
    first, _ = records.claim("a", {})
    records.write(replace(first, run_id="20200101-000000-aaaa", started=1.0))
    second, _ = records.claim("b", {})
    assert records.find("2020").started == 1.0
    assert records.find("latest").run_id in {first.run_id, second.run_id}
    with pytest.raises(UnknownRun, match="fits no run"):
        records.find("1999")
    with pytest.raises(UnknownRun, match="'20' fits "):
        records.find("20")


def test_an_unreadable_or_newer_record_is_no_run(records: RunRecords, tmp_path: Path) -> None:
    first, _ = records.claim("a", {})
    path = Home(tmp_path).run(first.run_id).record
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    assert records.all() == []
    path.write_text("{")
    assert records.all() == []


def test_cancel_ends_the_process_of_a_living_run_once(records: RunRecords, tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from components.run.record import RunRecords; from components.run.paths import Home\n"
    code += "RunRecords(Home(Path(sys.argv[1]))).claim('a', {}); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=os.getcwd()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert records.find("latest").shown_state == "Running"
        assert records.cancel(records.find("latest"))
        assert process.wait(timeout=30) == -signal.SIGTERM
    assert records.find("latest").shown_state == "Killed"
    assert not records.cancel(records.find("latest"))
