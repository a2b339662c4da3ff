"""A registered model rebuilt from its lineage: source, patch, data and parameters of its run, every stage really run, outs compared."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import yaml
from mlflow.tracking import MlflowClient

from components.launch.warm import warm_ranks
from components.registry.package import MLFLOW_RUN_TAG, RegistryError, resolve_version
from components.run import git
from components.run.dvc_remote import share
from components.run.events import Event
from components.run.failures import FailureClass, StageError
from components.run.key import device_type
from components.run.lease import Lease
from components.run.line import MLFLOW_STATUS
from components.run.lineage import LineageRecord, verify_lineage
from components.run.outs import Difference, compare_outs
from components.run.paths import Paths, RunFiles
from components.run.pipeline import StageSpec, read_pipeline
from components.run.stage import StageOutcome, StageRunner
from components.run.workspace import VERSION, Request, RunRecord, State
from components.settings import Settings
from components.tracking.mlflow_run import close_run, connect, open_run

FETCH_STEP = "fetch"


@dataclass
class Reproduction:
    """A model version being rebuilt in a checkout of its own; make one with `open`, end it with `close`.

    `remarks` are what this machine has otherwise than the run had; they explain differences and are none themselves.
    """

    settings: Settings
    client: MlflowClient
    record: RunRecord
    lease: Lease
    model: str
    version: int
    lineage: LineageRecord
    mlflow_run_id: str
    remarks: list[str]
    ran: list[str] = field(default_factory=list)
    resources: ExitStack = field(default_factory=ExitStack)
    warmth: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, settings: Settings, address: str, source: str | None = None) -> Self:
        """Go back to the run of a model version. `source` takes another git revision's source instead of the run's.

        Raises RegistryError for an unknown version, StageError when the run's source or data are gone.
        """
        client = connect(settings)
        version = resolve_version(client, address)
        run_id = version.tags.get(MLFLOW_RUN_TAG)
        if run_id is None:
            raise RegistryError(f"{version.name} version {version.version} has no lineage: it was not registered by `mmfs run`")
        name = f"reproduce-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        files = settings.home.run(name)
        recorded = Path(client.download_artifacts(run_id, "lineage", str(_made(files.folder))))
        lineage = LineageRecord.read(recorded / "lineage.json")
        remarks = verify_lineage(lineage, settings.root, recorded / "dvc.lock")
        fresh = settings.model_copy(update={"work": files.work})
        parent = open_run(client, settings, name, {"mmfs.reproduces": lineage.run_id, "mmfs.model": f"{version.name}/{version.version}"})
        request = Request(lineage.git_sha, lineage.patch_sha256, lineage.params_sha256)
        record = RunRecord(VERSION, name, time.time(), request, mlflow_run_id=parent, kind="reproduce")
        lease = Lease(files.folder)
        lease.try_acquire()
        one = cls(fresh, client, record, lease, version.name, int(version.version), lineage, parent, remarks)
        try:
            record.write(files.record)
            one._check_out(recorded, source)
        except BaseException:
            one.close("failed")
            raise
        return one

    @property
    def name(self) -> str:
        """Its name in every tool."""
        return self.record.run_id

    @property
    def files(self) -> RunFiles:
        """Where its logs and events are kept."""
        return self.settings.home.run(self.name)

    @property
    def checkout(self) -> Path:
        """Where it computes."""
        return self.settings.home.worktrees / self.name

    @property
    def stages(self) -> tuple[StageSpec, ...]:
        """The stages that the run had, in order."""
        known = read_pipeline(Paths(self.checkout).dvc_yaml)
        return tuple(known[name] for name in self.lineage.stage_keys)

    def run_stage(self, name: str, on_event: Callable[[Event], None]) -> StageOutcome:
        """Bring the run's data and outs (`fetch`), or compute a stage again, past every cache. Raises the StageError it failed with."""
        runner = StageRunner(self.checkout, self.files, self.settings, self.mlflow_run_id, self.name, extra=self.warmth)
        if name == FETCH_STEP:
            return self._fetch(runner, on_event)
        outcome = _whole(runner.run(name, on_event, force=True))
        if outcome.status == "Cached":
            raise StageError(FailureClass.BUG, f"{name} was taken from a cache instead of being computed again", "please report this")
        self.ran.append(name)
        return outcome

    def compare(self) -> list[Difference]:
        """What came out otherwise."""
        return compare_outs(self.stages, self.files.original, self.checkout)

    def note(self, prefect_flow_run_id: str) -> None:
        """Remember its name in Prefect."""
        self.record = replace(self.record, prefect_flow_run_id=prefect_flow_run_id)
        self.record.write(self.files.record)

    def close(self, state: State) -> None:
        """Tell MLflow how it ended, remove the checkout and the unfinished work; the logs and the record stay."""
        self.resources.close()
        try:
            close_run(self.client, self.mlflow_run_id, MLFLOW_STATUS[state])
            self._clean()
        finally:
            self.record = replace(self.record, state=state)
            self.record.write(self.files.record)
            self.lease.release()

    def _clean(self) -> None:
        for folder in (self.files.work, self.files.original):
            shutil.rmtree(folder, ignore_errors=True)
        git.remove_worktree(self.settings.root, self.checkout)  # last: what finds a killed reproduction's leavings looks for it

    def _check_out(self, recorded: Path, source: str | None) -> None:
        """The run's source with its patch, parameters, lock and pinned data."""
        root, paths = self.settings.root, Paths(self.checkout)
        revision = self.lineage.git_sha if source is None else git.git(root, "rev-parse", "--verify", f"{source}^{{commit}}").strip()
        self.settings.home.worktrees.mkdir(parents=True, exist_ok=True)
        git.add_worktree(root, self.checkout, revision)
        if source is None and self.lineage.patch_sha256 is not None:
            git.apply_patch(self.checkout, recorded / "patch.diff")
        share(root, self.checkout, self.settings.remote)
        shutil.copyfile(recorded / "params.yaml", paths.params)
        shutil.copyfile(recorded / "dvc.lock", paths.dvc_lock)
        pin = {"outs": [{"md5": self.lineage.data["data/input"], "hash": "md5", "path": "input"}]}
        paths.input_pin.parent.mkdir(parents=True, exist_ok=True)
        paths.input_pin.write_text(yaml.safe_dump(pin), encoding="utf-8")

    def _fetch(self, runner: StageRunner, on_event: Callable[[Event], None]) -> StageOutcome:
        if device_type() == "cpu" and any(stage.starts_ranks for stage in self.stages):
            self.warmth = self.resources.enter_context(warm_ranks(runner.environment(), self.checkout, self.files.log("zygote")))
        targets = ["data/input.dvc", *self.lineage.stage_keys]
        outcome = _whole(runner.run_module(FETCH_STEP, "dvc", ["pull", *targets], on_event))
        for out in (out for stage in self.stages for out in stage.outs):
            target = self.files.original / out
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self.checkout / out, target)
        return replace(outcome, status="Completed")


def _whole(outcome: StageOutcome) -> StageOutcome:
    if outcome.failure is not None:
        raise outcome.failure
    return outcome


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
