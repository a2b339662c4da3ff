"""A training run from its opening to its end: the workspace, the MLflow parent run, the stages, then what follows from their outs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mlflow.entities import Param
from mlflow.tracking import MlflowClient

from components.data.card.page import make_card
from components.data.card.page import render as render_card
from components.data.index import Index
from components.data.places import shard_places
from components.data.reader import DocumentReader
from components.evaluation.estimates import METRICS_FILE
from components.launch.warm import warm_ranks
from components.params import Params, Task, parse, read_mapping
from components.promote import Outcome, Promotions
from components.register import Candidate, Origin, model_name, register
from components.registry.ledger import Ledger
from components.registry.store import open_store
from components.report import Decision, Identity, StageRow, collect, render
from components.run.dvc_remote import cache_folder
from components.run.events import Event
from components.run.failures import StageError
from components.run.filetree import write_whole
from components.run.key import device_type, stage_inputs
from components.run.lineage import LineageRecord, make_lineage
from components.run.pipeline import read_pipeline
from components.run.stage import StageOutcome, StageRunner
from components.run.workspace import State, Workspace, open_workspace
from components.settings import Settings
from components.tracking.mlflow_run import Status, close_run, connect, experiment_id, open_run, record_cached, resume_run, tag_run
from components.tracking.sender import drain

VERSION_STEP = "version"
ARCHIVE_STEP = "archive"
GRACE_S = 15.0  # a worker gives the whole flow 30 s
_AFTER_RANKS_S = 5.0
MAX_PARAM_CHARACTERS = 6000
MAX_PARAMS_PER_CALL = 100
_log = logging.getLogger(__name__)
MLFLOW_STATUS: dict[State, Status] = {"finished": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


@dataclass
class TrainingRun:
    """An open run; make one with `open`, end it with `close`."""

    settings: Settings
    workspace: Workspace
    params: Params
    client: MlflowClient
    mlflow_run_id: str
    opened: float
    ended: dict[str, StageOutcome] = field(default_factory=dict)
    restored: dict[str, StageOutcome] = field(default_factory=dict)
    warmth: dict[str, str] = field(default_factory=dict)
    resources: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def open(cls, settings: Settings, values: Mapping[str, Any], opened: float, fresh: bool = False) -> Self:
        """Take up or begin the run of these parameters. `opened` is when it was asked for, seconds since the epoch. Raises StageError."""
        workspace = open_workspace(settings, values, fresh)
        try:
            client = connect(settings)
            drain(settings)  # what earlier processes could not send
            run_id = workspace.record.mlflow_run_id
            if run_id is None or not resume_run(client, run_id):
                tags = {"mmfs.run_id": workspace.run_id, "mmfs.changed_files": str(workspace.changed_files)}
                run_id = open_run(client, settings, workspace.run_id, tags)
                workspace.note(mlflow_run_id=run_id)
                _log_params(client, run_id, values)
            run = cls(settings, workspace, parse(values), client, run_id, opened)
            if not run._seen_before:  # every stage will run: its ranks' imports may begin while Prefect's server comes up
                run._warm_up()
        except BaseException:
            workspace.close("open")
            raise
        return run

    @property
    def run_id(self) -> str:
        """Its name in every tool."""
        return self.workspace.run_id

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of dvc.yaml that serve the tasks asked for, in order."""
        known = read_pipeline(self.workspace.paths.dvc_yaml)
        return tuple(name for name in known if "@" not in name or name.partition("@")[2] in self.params.tasks)

    @property
    def warning(self) -> str:
        """What speaks against promoting anything of this run; empty where nothing does."""
        count = self.workspace.changed_files
        files = "1 source file was" if count == 1 else f"{count} source files were"
        return f"{files} changed without a commit, so no model of this run can be promoted; commit them and run again" if count else ""

    def run_stage(self, name: str, on_event: Callable[[Event], None]) -> StageOutcome:
        """Run a stage of dvc.yaml, `version` or `archive` in a child of its own. Raises the StageError it failed with."""
        runner = self._runner()
        if name == VERSION_STEP:
            outcome = self._ended(runner.run_module(name, "components.version", on_event=on_event))
            if self._seen_before:
                self._restore(runner)
            return outcome
        if name == ARCHIVE_STEP:
            outcome = runner.run_module(name, "components.run.archive", [self.run_id], on_event=on_event)
            self._ended(outcome if outcome.failure else replace(outcome, status="Completed"))
            self.workspace.note(experiment=self.run_id)
            return self.ended[name]
        outcome = self._ended(self.restored[name] if name in self.restored else runner.run(name, on_event))
        if outcome.status == "Cached":
            self._record_cached(name)
        return outcome

    def make_lineage(self) -> LineageRecord:
        """What the run computed from; kept in its folder and on the MLflow run with the files it speaks of."""
        lineage = make_lineage(self.workspace, self.stages)
        files, paths = self.workspace.files, self.workspace.paths
        lineage.write(files.lineage)
        tag_run(self.client, self.mlflow_run_id, lineage.tags())
        for path in (files.lineage, paths.dvc_lock, paths.params, files.patch):
            if path.exists():
                self.client.log_artifact(self.mlflow_run_id, str(path), "lineage")
        return lineage

    def register(self, task: Task, lineage: LineageRecord) -> Candidate:
        """The task's model as a registered version."""
        obstacle = None if lineage.promotable else self.warning
        origin = Origin(self.run_id, self.mlflow_run_id, experiment_id(self.client, self.settings), lineage.tags(), obstacle)
        paths = self.workspace.paths
        return register(self.client, task, origin, paths.finetune(task) / "weights.json", paths.evaluation(task))

    def promote(self, candidate: Candidate, asked: bool) -> Outcome:
        """The gate's decision about a candidate, written into the ledger unless promotion was not `asked` for."""
        if not asked:
            reasons = ("promotion was not asked for",)
            return Outcome(candidate.model, candidate.version, candidate.digest, "not compared", reasons, {})
        rule = getattr(self.params.gate, candidate.task)
        return Promotions(self.client, Ledger(open_store(self.settings.ledger_address))).consider(candidate, rule)

    def write_report(self, state: str, outcomes: Mapping[Task, Outcome], message: str = "") -> Path:
        """The run's page, in its folder and on the MLflow run; a failed run has one too."""
        files = self.workspace.files
        data = collect(
            run_id=self.run_id,
            state=state,
            started=datetime.fromtimestamp(self.opened, UTC),
            wall_seconds=time.time() - self.opened,
            files=files,
            paths=self.workspace.paths,
            stages=[StageRow(name=one.name, state=one.status, seconds=one.seconds, message=_message(one)) for one in self.ended.values()],
            identities=self.identities(),
            decisions=[self._decision(task, outcome) for task, outcome in outcomes.items()],
            message=message,
            warning=self.warning,
        )
        write_whole(files.report, render(data))
        self.client.log_artifact(self.mlflow_run_id, str(files.report))
        self._write_data_card()
        return files.report

    def _write_data_card(self) -> None:
        """The card of the run's data version, beside its report; a run that made none has none."""
        paths, card = self.workspace.paths, self.workspace.files.data_card
        if not paths.index.is_dir():
            return
        try:
            with closing(DocumentReader(index := Index(paths.index), shard_places(paths, self.settings))) as reader:
                write_whole(card, render_card(make_card(index, reader, f"Data of run {self.run_id}")))
        except StageError as error:
            _log.warning("no data card: %s", error.message)
        else:
            self.client.log_artifact(self.mlflow_run_id, str(card))

    def identities(self) -> Sequence[Identity]:
        """The run in every tool, and what shows it there."""
        return (
            Identity(tool="mmfs", name=self.run_id, show=f"mmfs logs {self.run_id}"),
            Identity(tool="Prefect", name=self.workspace.record.prefect_flow_run_id or "", show="mmfs up"),
            Identity(tool="MLflow", name=self.mlflow_run_id, show="mlflow ui"),
            Identity(tool="DVC", name=self.run_id, show=f"dvc exp show -A | grep {self.run_id}"),
        )

    @property
    def mlflow_address(self) -> str | None:
        """The MLflow run's page, where a server shows it."""
        if not self.settings.tracking_uri.startswith("http"):
            return None
        return f"{self.settings.tracking_uri}/#/experiments/{experiment_id(self.client, self.settings)}/runs/{self.mlflow_run_id}"

    def close(self, state: State) -> None:
        """Tell MLflow how the run ended and give up the checkout; `open` leaves both for the same command to go on with."""
        self.resources.close()
        if state == "open":
            self.workspace.close(state)
            return
        try:
            close_run(self.client, self.mlflow_run_id, MLFLOW_STATUS[state])
        finally:
            self.workspace.close(state)

    def _ended(self, outcome: StageOutcome) -> StageOutcome:
        """Note how a child ended; the lifetimes of a step's attempts add up."""
        before = self.ended.get(outcome.name)
        self.ended[outcome.name] = replace(outcome, seconds=outcome.seconds + before.seconds) if before else outcome
        if outcome.failure is not None:
            raise outcome.failure
        return outcome

    def _runner(self) -> StageRunner:
        files, checkout = self.workspace.files, self.workspace.checkout
        grace_s = max(GRACE_S, self.settings.stop_grace_s + _AFTER_RANKS_S)
        return StageRunner(checkout, files, self.settings, self.mlflow_run_id, self.run_id, grace_s, self.warmth)

    def _restore(self, runner: StageRunner) -> None:
        """Bring back at once what DVC has seen before: a process of its own for each stage takes longer than the whole rest."""
        self.restored = {one.name: one for one in runner.restore(self.stages)}
        self._warm_up()

    @property
    def _seen_before(self) -> bool:
        """Whether DVC's run-cache may know stages of this run."""
        return (cache_folder(self.workspace.checkout) / "runs").is_dir()

    def _warm_up(self) -> None:
        """Let a zygote begin to import for the ranks of the stages that are left; on a CPU only."""
        known = read_pipeline(self.workspace.paths.dvc_yaml)
        wanted = any(known[name].starts_ranks for name in self.stages if name not in self.restored)
        if wanted and not self.warmth and device_type() == "cpu":
            environment, log = self._runner().environment(), self.workspace.files.log("zygote")
            self.warmth = self.resources.enter_context(warm_ranks(environment, self.workspace.checkout, log))

    def _record_cached(self, name: str) -> None:
        """The child run of a stage that did not need to run, with the metrics in its outs."""
        paths = self.workspace.paths
        spec = read_pipeline(paths.dvc_yaml)[name]
        key = stage_inputs(spec, paths.root, read_mapping(paths.params), device_type()).key
        found = [paths.root / out / METRICS_FILE for out in spec.outs] + [
            paths.root / out for out in spec.outs if out.endswith(METRICS_FILE)
        ]
        metrics = {metric: value for file in found if file.is_file() for metric, value in _numbers(file)}
        record_cached(self.client, self.settings, self.mlflow_run_id, name, key, metrics)

    def _decision(self, task: Task, outcome: Outcome) -> Decision:
        return Decision(
            task=task,
            model=model_name(task),
            version=outcome.version,
            decision=outcome.decision,
            reasons=outcome.reasons,
            digest=outcome.digest,
            metric=getattr(self.params.gate, task).metric,
        )


def _log_params(client: MlflowClient, run_id: str, values: Mapping[str, Any]) -> None:
    params = [Param(key, str(value)[:MAX_PARAM_CHARACTERS]) for key, value in _flat(values)]
    for start in range(0, len(params), MAX_PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[start : start + MAX_PARAMS_PER_CALL])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _numbers(file: Path) -> Iterator[tuple[str, float]]:
    """Metrics of a stage's out: plain numbers, or estimates with a value."""
    for name, entry in json.loads(file.read_text(encoding="utf-8")).items():
        value = entry.get("value") if isinstance(entry, dict) else entry
        if isinstance(value, int | float):
            yield name, float(value)


def _message(outcome: StageOutcome) -> str:
    if outcome.failure is not None:
        return outcome.failure.line()
    return str((outcome.result or {}).get("summary", ""))
