"""A run's isolated checkout: a git worktree with the shared DVC cache, kept while the run is unfinished, removed when it is done."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from components.run import git
from components.run.dvc_remote import share
from components.run.failures import FailureClass, StageError
from components.run.filetree import remove, write_whole
from components.run.lease import Lease, is_held
from components.run.parameters import as_yaml
from components.run.paths import Paths, RunFiles
from components.run.work import discard_work
from components.settings import Settings

VERSION = 1
KEEP_WORK_S = 14 * 24 * 3600.0
State = Literal["open", "finished", "failed", "cancelled"]


@dataclass(frozen=True)
class Request:
    """What a run computes from: two equal requests are the same run, and one takes up the other where it was killed."""

    git_sha: str
    patch_sha256: str | None
    params_sha256: str


@dataclass(frozen=True)
class RunRecord:
    """run.json: the run's request, state and names elsewhere, read to resume it. A reproduction has one too, but is never taken up."""

    version: int
    run_id: str
    created: float
    request: Request
    state: State = "open"
    mlflow_run_id: str | None = None
    prefect_flow_run_id: str | None = None
    experiment: str | None = None
    kind: Literal["train", "reproduce"] = "train"

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record in `path`; None where there is none of this version."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**values | {"request": Request(**values["request"])}) if values["version"] == VERSION else None
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Replace the record in one step."""
        write_whole(path, json.dumps(asdict(self), indent=1))


class Workspace:
    """An open run. Make one with `open_workspace`, end it with `close`. `resumed`: a process that died had begun it."""

    def __init__(self, settings: Settings, record: RunRecord, lease: Lease, resumed: bool) -> None:
        self.settings = settings
        self.record = record
        self.resumed = resumed
        self._lease = lease

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def checkout(self) -> Path:
        return self.settings.home.worktrees / self.run_id

    @property
    def paths(self) -> Paths:
        return Paths(self.checkout)

    @property
    def files(self) -> RunFiles:
        return self.settings.home.run(self.run_id)

    @property
    def changed_files(self) -> int:
        """How many files of the source that it computes with are in no commit as they are."""
        return 0 if self.record.request.patch_sha256 is None else git.changed_files(self.files.patch.read_bytes())

    def note(self, **names: str) -> None:
        """Remember the run's names elsewhere: mlflow_run_id, prefect_flow_run_id, experiment."""
        self.record = replace(self.record, **names)  # type: ignore[arg-type]  # these fields are all strings
        self.record.write(self.files.record)

    def close(self, state: State) -> None:
        """End the run: keep its lock and parameters with its logs, remove the checkout, let go of the lease.

        `open` leaves everything as it is, for the same command to go on with.
        """
        if state != "open":
            for path in (self.paths.dvc_lock, self.paths.params):
                if path.exists():
                    write_whole(self.files.folder / path.name, path.read_bytes())
            self.record = replace(self.record, state=state)
            self.record.write(self.files.record)
            git.remove_worktree(self.settings.root, self.checkout)
            discard_abandoned(self.settings, KEEP_WORK_S)
        self._lease.release()


def open_workspace(settings: Settings, values: Mapping[str, Any], fresh: bool = False, sha: str | None = None) -> Workspace:
    """Take up the unfinished run of an equal request, or begin one in a new worktree. Raises StageError.

    `values` are the resolved parameters. Where `sha` is given the checkout is that commit, without the user's uncommitted changes.
    """
    head = git.head(settings.root)
    patch = b"" if sha else git.source_patch(settings.root)
    request = Request(
        git_sha=sha or head,
        patch_sha256=hashlib.sha256(patch).hexdigest() if patch else None,
        params_sha256=hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest(),
    )
    unfinished = None if fresh else _take_up(settings, request)
    return unfinished or _begin(settings, request, values, patch)


def discard_abandoned(settings: Settings, older_than_s: float) -> None:
    """Remove what killed processes left and nobody went on with for so long: work folders, checkouts, copies made to compare with.

    Logs and records stay. Who works renews a lease, which touches the folder of the run.
    """
    discard_work(settings.work_root, older_than_s)
    for checkout in settings.home.worktrees.iterdir() if settings.home.worktrees.is_dir() else ():
        files = settings.home.run(checkout.name)
        touched = (files.folder if files.folder.is_dir() else checkout).stat().st_mtime
        if time.time() - touched > older_than_s and not is_held(files.folder):
            for copy in (files.work, files.original):
                remove(copy)
            with suppress(StageError):  # a checkout that was killed half-made is none that git knows
                git.remove_worktree(settings.root, checkout)
            remove(checkout)


def _take_up(settings: Settings, request: Request) -> Workspace | None:
    runs = settings.home.folder / "runs"
    for folder in sorted(runs.iterdir(), reverse=True) if runs.is_dir() else ():
        record = RunRecord.read(folder / "run.json")
        if record is None or record.kind != "train" or record.state != "open" or record.request != request:
            continue
        lease = Lease(folder)
        if (settings.home.worktrees / record.run_id / ".dvc" / "config.local").exists() and lease.try_acquire():
            return Workspace(settings, record, lease, resumed=True)
    return None


def _begin(settings: Settings, request: Request, values: Mapping[str, Any], patch: bytes) -> Workspace:
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    lease = Lease(settings.home.run(run_id).folder)
    lease.try_acquire()
    workspace = Workspace(settings, RunRecord(VERSION, run_id, time.time(), request), lease, resumed=False)
    try:
        _check_out(workspace, patch)
        workspace.paths.params.write_text(as_yaml(dict(values)), encoding="utf-8")
        share(settings.root, workspace.checkout, settings.remote)
        workspace.record.write(workspace.files.record)
    except BaseException:
        git.remove_worktree(settings.root, workspace.checkout)
        lease.release()
        shutil.rmtree(workspace.files.folder, ignore_errors=True)
        raise
    return workspace


def _check_out(workspace: Workspace, patch: bytes) -> None:
    settings = workspace.settings
    settings.home.worktrees.mkdir(parents=True, exist_ok=True)
    git.add_worktree(settings.root, workspace.checkout, workspace.record.request.git_sha)
    if patch:
        workspace.files.patch.write_bytes(patch)
        git.apply_patch(workspace.checkout, workspace.files.patch)
    if not (workspace.checkout / ".dvc" / "config").exists():
        raise StageError(FailureClass.BAD_CONFIG, f"the commit of {settings.root} has no .dvc/config", "run `dvc init` and commit")
    (workspace.checkout / ".dvc" / "tmp").mkdir(exist_ok=True)
