"""run.json: what is known of a run while it goes and after it ended, so that the same command finds it again and goes on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from components.run.lease import Owner
from components.run.paths import Home

VERSION = 1
RunState = Literal["Running", "Completed", "Failed", "Cancelled"]


class UnknownRun(LookupError):
    """No run has that name; the message says which there are."""


@dataclass(frozen=True)
class RunRecord:
    """One run. `inputs` digests what it was asked (source, parameters, data); `owner` is the process that runs it.

    `started` and `ended` are seconds since the epoch; `stages` and `models` are the outcomes as JSON.
    """

    run_id: str
    inputs: str
    state: RunState
    owner: Owner
    started: float
    attempts: int = 1
    ended: float | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    mlflow_run_id: str = ""
    prefect_flow_run_id: str = ""
    experiment: str | None = None
    stages: tuple[Mapping[str, Any], ...] = ()
    models: tuple[Mapping[str, Any], ...] = ()
    message: str = ""

    def is_alive(self) -> bool:
        """Whether its process still runs it."""
        return self.state == "Running" and self.owner.alive(Owner.myself())

    @property
    def shown_state(self) -> str:
        """The state for people: a run whose process is gone was killed."""
        return "Killed" if self.state == "Running" and not self.is_alive() else self.state


class RunRecords:
    """All runs of a repository, in .mmfs/runs."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def claim(self, inputs: str, asked: Mapping[str, Any], fresh: bool = False) -> tuple[RunRecord, bool]:
        """A run for these inputs, owned by this process: an unfinished one whose process is gone, else a new one. True when it goes on."""
        with self._guard():
            for known in self.all():
                if not fresh and known.inputs == inputs and known.state != "Completed" and not known.is_alive():
                    taken = replace(known, state="Running", owner=Owner.myself(), ended=None, message="", attempts=known.attempts + 1)
                    self.write(taken)
                    return taken, True
            record = RunRecord(_new_id(), inputs, "Running", Owner.myself(), time.time(), asked=dict(asked))
            self.write(record)
            return record, False

    def write(self, record: RunRecord) -> None:
        """Replace the run's record, whole."""
        path = self.home.run(record.run_id).record
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps({"version": VERSION, **asdict(record)}, indent=1), encoding="utf-8")
        aside.replace(path)

    def all(self) -> list[RunRecord]:
        """Every run, the latest first; a record that cannot be read is left out."""
        found = [_read(path) for path in self.home.run("any").folder.parent.glob("*/run.json")]
        return sorted((record for record in found if record is not None), key=lambda record: record.started, reverse=True)

    def find(self, name: str) -> RunRecord:
        """The run of this name, of a unique beginning of it, or `latest`. Raises UnknownRun."""
        runs = self.all()
        matching = runs[:1] if name == "latest" else [run for run in runs if run.run_id == name] or [run for run in runs if run.run_id.startswith(name)]
        if len(matching) == 1:
            return matching[0]
        several = f"fits {', '.join(run.run_id for run in matching)}" if matching else "fits no run"
        raise UnknownRun(f"{name!r} {several}; `mmfs runs` lists them")

    def cancel(self, run: RunRecord) -> bool:
        """Ask the process of a run to end it; False when it is gone already."""
        if not run.is_alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.owner.pid, signal.SIGTERM)
            return True
        return False

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        folder = self.home.run("any").folder.parent
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "claim.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _new_id() -> str:
    """Sorts by time, says when, and does not repeat: `20261121-023015-7fa2`. Allowed as a name by git, DVC, MLflow and Prefect."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _read(path: Path) -> RunRecord | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("version") > VERSION:
            return None
        owner = Owner(**values.pop("owner"))
        return RunRecord(owner=owner, stages=tuple(values.pop("stages")), models=tuple(values.pop("models")), **values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
