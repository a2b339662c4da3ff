"""One stage as a child process: started in its own group, listened to, stopped as a whole."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.run.events import Event, tail_events
from components.run.failures import FailureClass, StageError, from_exit_code
from components.run.filetree import remove
from components.run.paths import Paths, RunFiles
from components.run.pipeline import read_pipeline
from components.run.restore import LOCK_VARIABLE
from components.settings import Settings, without_secrets
from components.tracking.sender import Sender
from components.tracking.stage_run import spool_folder
from components.tracking.weights import WEIGHTS_FILE, WeightsRecord

GRACE_S = 30.0
SEND_TIMEOUT_S = 60.0
_POLL_S = 0.05
_RESTORE = "restore"
_MET = "without a confirmation"
"""How DVC ends when another process adds to the shared cache what it is adding: it takes the out for a stranger's."""
_RESTORED = re.compile(r"^Stage '(.+)' (?:is cached - skipping run|didn't change, skipping)", re.MULTILINE)


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended. `seconds` is the lifetime of its process; a Cached one never started its body; `failure` is set for Failed."""

    name: str
    status: Literal["Completed", "Cached", "Failed"]
    seconds: float
    key: str | None = None
    result: Mapping[str, Any] | None = None
    failure: StageError | None = None


@dataclass(frozen=True)
class StageRunner:
    """Runs stages in one checkout; `files` keeps their events and logs, `parent_run_id` is the MLflow parent of their runs, `extra`
    goes into their environment.

    A stage blocks the calling thread until its whole process group is gone. An exception raised in that thread (a signal, a cancellation)
    stops the group: SIGTERM, `grace_s`, SIGKILL. The children die with the thread.
    """

    checkout: Path
    files: RunFiles
    settings: Settings
    parent_run_id: str | None = None
    run_id: str | None = None
    grace_s: float = GRACE_S
    extra: Mapping[str, str] = field(default_factory=dict)

    def run(self, name: str, on_event: Callable[[Event], None] = lambda event: None, force: bool = False) -> StageOutcome:
        """Reproduce a stage of dvc.yaml; with `force` even where DVC knows its outs.

        Outs that DVC knows of a model whose bytes nobody has any more are no hit: the stage runs again. Where the DVC of another run
        wrote the same outs into the cache at the same moment, a second attempt takes them from the finished work.
        """
        options = ["--force", "--no-run-cache"] if force else []
        outcome = self.run_module(name, "components.run.repro", [name, *options], on_event)
        if outcome.failure is not None and _MET in outcome.failure.message:
            for out in self._outs(name):
                remove(out)
            outcome = self.run_module(name, "components.run.repro", [name, *options], on_event)
        if outcome.status == "Cached" and not force and not self._weights_stored(name):
            return self.run(name, on_event, force=True)
        return outcome

    def run_module(
        self, name: str, module: str, arguments: Sequence[str] = (), on_event: Callable[[Event], None] = lambda event: None
    ) -> StageOutcome:
        """Run a program that tells events, such as `components.version`, in the same way."""
        return self._run(name, module, arguments, on_event, {})

    def restore(self, names: Sequence[str]) -> list[StageOutcome]:
        """Put the outs of all of these stages in place that DVC knows; those are Cached, with their share of the time.

        One process does it for all, where `run` would start DVC for each. Left out, for `run` to decide, are stages that must run, whose
        model's bytes are gone, and all that follow from such.
        """
        log = self.files.log(_RESTORE)
        offset = log.stat().st_size if log.exists() else 0
        locks = sorted(self.files.folder.parent.glob("*/dvc.lock"))
        ended = self._run(_RESTORE, "components.run.restore", names, lambda event: None, {LOCK_VARIABLE: str(locks[-1]) if locks else ""})
        known = _RESTORED.findall(log.read_bytes()[offset:].decode(errors="replace"))
        pipeline = read_pipeline(Paths(self.checkout).dvc_yaml)
        restored: list[str] = []
        unsure: list[str] = []
        for name in names:
            follows = any(dep == out or dep.startswith(f"{out}/") for dep in pipeline[name].deps for out in unsure)
            if name in known and not follows and self._weights_stored(name):
                restored.append(name)
            else:
                unsure += pipeline[name].outs
        return [StageOutcome(name, "Cached", ended.seconds / len(restored)) for name in restored]

    def _outs(self, name: str) -> list[Path]:
        return [self.checkout / out for out in read_pipeline(Paths(self.checkout).dvc_yaml)[name].outs]

    def _weights_stored(self, name: str) -> bool:
        """Whether MLflow holds the models that the stage's outs speak of."""
        records = [out / WEIGHTS_FILE for out in self._outs(name) if (out / WEIGHTS_FILE).exists()]
        if not records:
            return True
        from components.tracking.logged_model import ensure_stored  # MLflow, where a model is at stake

        return all(ensure_stored(self.settings, self.parent_run_id, WeightsRecord.read(record)) for record in records)

    def _run(
        self, name: str, module: str, arguments: Sequence[str], on_event: Callable[[Event], None], environment: Mapping[str, str]
    ) -> StageOutcome:
        events, log = self.files.events(name), self.files.log(name)
        for path in (events, log):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        start, offset, log_offset = time.monotonic(), events.stat().st_size, log.stat().st_size
        with log.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self.checkout,
                env=self.environment(events) | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        heard = _Heard()
        sender: Sender | None = None
        try:
            for event in tail_events(events, lambda: child.poll() is not None, interval_s=_POLL_S, offset=offset):
                heard.note(event)
                if event.name == "started":
                    sender = self._carry(event.values["key"])
                on_event(event)
        finally:
            _end_group(child, self.grace_s)
            seconds = time.monotonic() - start
            if sender is not None:
                sender.close(SEND_TIMEOUT_S)
        if child.returncode:
            failure = heard.problem(name, child.returncode, _last_error(log, log_offset))
            return StageOutcome(name, "Failed", seconds, heard.key, failure=failure)
        return StageOutcome(name, "Completed" if heard.key else "Cached", seconds, heard.key, heard.result)

    def environment(self, events: Path | None = None) -> dict[str, str]:
        """What a child of this run sees."""
        python_path = os.pathsep.join(entry for entry in (str(self.checkout), os.environ.get("PYTHONPATH")) if entry)
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": python_path,
            "PYTHONUNBUFFERED": "1",
            "SHELL": "/bin/sh",
            "MMFS_EVENTS": str(events or ""),
            "MMFS_CARRIED": "true",
            "MMFS_PARENT_RUN_ID": self.parent_run_id or "",
            "MMFS_RUN_ID": self.run_id or "",
            "DVC_SITE_CACHE_DIR": str(self.checkout / ".dvc" / "tmp" / "site"),
        }
        return dict(os.environ) | self.settings.child_environment() | own | dict(self.extra)

    def _carry(self, key: str) -> Sender | None:
        """Send the stage's tracking records from here; None while an earlier sender still has them."""
        folder = spool_folder(self.settings, key, self.parent_run_id)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            sender = Sender(folder, self.settings)
        except BlockingIOError:
            return None
        sender.start()
        return sender


class _Heard:
    """What the events of one attempt add up to."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.result: Mapping[str, Any] | None = None
        self._failure: StageError | None = None

    def note(self, event: Event) -> None:
        """Take an event into account."""
        if event.name == "started":
            self.key = event.values["key"]
        elif event.name == "finished":
            self.result = event.values["result"]
        elif event.name == "failed":
            self._failure = StageError(FailureClass(event.values["class"]), event.values["message"], event.values["fix"])

    def problem(self, name: str, code: int, dvc_error: str) -> StageError:
        """Why the stage failed: its own words, else DVC's, else the status of its process."""
        if self._failure is not None:
            return self._failure
        if code < 0:
            return StageError(from_exit_code(code), f"the process of {name} was ended by signal {-code}", "run the same command to go on")
        message = dvc_error or f"the process of {name} ended with status {code}"
        return StageError(FailureClass.INFRASTRUCTURE, message, "see the log of the stage; `mmfs doctor` checks the machine")


def _end_group(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """Leave nothing of the child's group behind."""
    if child.poll() is None:
        _signal(child, signal.SIGTERM)
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            _signal(child, signal.SIGKILL)
            child.wait()
    _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return


def _last_error(log: Path, offset: int) -> str:
    """DVC's own last error line, for failures before the stage could speak for itself."""
    with log.open("rb") as file:
        file.seek(offset)
        lines = file.read().decode(errors="replace").splitlines()
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return without_secrets(errors[-1]) if errors else ""
