"""The runs of a repository as people ask for them: listed, found by name, cancelled. What a run needs itself is in `workspace`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.run import workspace
from components.run.failures import FailureClass, StageError
from components.run.filetree import write_whole
from components.run.lease import Owner, is_held, owner_of
from components.run.paths import Home, RunFiles

RESULT_VERSION = 1
RunState = Literal["Running", "Killed", "Completed", "Failed", "Cancelled"]
_ENDED: dict[workspace.State, RunState] = {"finished": "Completed", "failed": "Failed", "cancelled": "Cancelled"}


class UnknownRun(LookupError):
    """No run has that name; the message says which there are."""


@dataclass(frozen=True)
class RunRecord:
    """One run. A Killed one lost its process; the same command takes it up again. `owner` is the process that runs or ran it last;
    `result` is what it came to, as JSON. Times are seconds since the epoch."""

    run_id: str
    state: RunState
    started: float
    ended: float | None
    mlflow_run_id: str
    prefect_flow_run_id: str
    experiment: str | None
    owner: Owner | None
    result: Mapping[str, Any] = field(default_factory=dict)

    def is_alive(self) -> bool:
        """Whether its process still runs it."""
        return self.state == "Running"


def recorded_file(home: Home, run_id: str, name: str) -> Path:
    """A file of a run, such as params.yaml: beside its logs when it has ended, in its checkout before. Raises StageError (bad_data)."""
    for path in (home.run(run_id).folder / name, home.worktrees / run_id / name):
        if path.is_file():
            return path
    raise StageError(FailureClass.BAD_DATA, f"run {run_id} has no {name} any more", "`mmfs runs` lists the runs")


class RunRecords:
    """All runs of a repository, in .mmfs/runs."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def all(self) -> list[RunRecord]:
        """Every run, the latest first; a record that cannot be read is left out."""
        found = [_read(RunFiles(path.parent)) for path in self.home.run("any").folder.parent.glob("*/run.json")]
        return sorted((record for record in found if record is not None), key=lambda record: record.started, reverse=True)

    def find(self, name: str) -> RunRecord:
        """The run of this name, of a unique beginning of it, or `latest`. Raises UnknownRun."""
        runs = self.all()
        matching = (
            runs[:1]
            if name == "latest"
            else [run for run in runs if run.run_id == name] or [run for run in runs if run.run_id.startswith(name)]
        )
        if len(matching) == 1:
            return matching[0]
        several = f"fits {', '.join(run.run_id for run in matching)}" if matching else "fits no run"
        raise UnknownRun(f"{name!r} {several}; `mmfs runs` lists them")

    def cancel(self, run: RunRecord) -> bool:
        """Ask the process of a run to end it; False when it is gone already."""
        if run.owner is None or not run.is_alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.owner.pid, signal.SIGTERM)
            return True
        return False


def write_result(files: RunFiles, ended: float, result: Mapping[str, Any]) -> None:
    """Keep what a run came to beside its record."""
    record = {"version": RESULT_VERSION, "ended": ended, "result": dict(result)}
    write_whole(files.folder / "result.json", json.dumps(record, indent=1, default=str))


def _read(files: RunFiles) -> RunRecord | None:
    known = workspace.RunRecord.read(files.record)
    if known is None:
        return None
    ended = {} if known.state == "open" else _result(files.folder / "result.json")
    return RunRecord(
        run_id=known.run_id,
        state=_ENDED[known.state] if known.state != "open" else "Running" if is_held(files.folder) else "Killed",
        started=known.created,
        ended=ended.get("ended"),
        mlflow_run_id=known.mlflow_run_id or "",
        prefect_flow_run_id=known.prefect_flow_run_id or "",
        experiment=known.experiment,
        owner=owner_of(files.folder),
        result=ended.get("result", {}),
    )


def _result(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return values if values["version"] <= RESULT_VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
