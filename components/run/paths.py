"""Where everything lies: the files of a checkout, and what `.mmfs/` of the repository holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The pipeline's files in one checkout (the main one or a run's worktree)."""

    root: Path

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def dvc_yaml(self) -> Path:
        return self.root / "dvc.yaml"

    @property
    def dvc_lock(self) -> Path:
        return self.root / "dvc.lock"

    @property
    def requirements_lock(self) -> Path:
        return self.root / "requirements.lock"

    @property
    def input(self) -> Path:
        return self.root / "data" / "input"

    @property
    def input_pin(self) -> Path:
        """The DVC file that pins the input."""
        return self.root / "data" / "input.dvc"

    @property
    def input_tokenizer(self) -> Path:
        """The tokenizer.json of `data.tokenizer`, pinned with the input."""
        return self.input / "tokenizer.json"

    @property
    def corpora(self) -> Path:
        """Corpora that `mmfs data add` put under DVC, each with its pin beside it."""
        return self.root / "data" / "corpora"

    @property
    def takedowns(self) -> Path:
        """What `mmfs takedown` took out of all further data versions."""
        return self.root / "takedowns.jsonl"

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    @property
    def index(self) -> Path:
        return self.outputs / "index"

    @property
    def shards(self) -> Path:
        return self.outputs / "shards"

    @property
    def pretrain(self) -> Path:
        return self.outputs / "pretrain"

    def finetune(self, task: str) -> Path:
        return self.outputs / "finetune" / task

    def evaluation(self, task: str) -> Path:
        return self.outputs / "evaluation" / task


@dataclass(frozen=True)
class Home:
    """What mmfs keeps for the whole repository; `root` is the main checkout."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / ".mmfs"

    @property
    def work(self) -> Path:
        """Unfinished work, one folder per stage key."""
        return self.folder / "work"

    @property
    def worktrees(self) -> Path:
        return self.folder / "worktrees"

    @property
    def remote(self) -> Path:
        """The default DVC remote."""
        return self.folder / "remote"

    @property
    def weights(self) -> Path:
        """Verified copies of published weights, one folder per model digest."""
        return self.folder / "weights"

    @property
    def shards(self) -> Path:
        """Whole shards fetched from the DVC remote to train from, by md5."""
        return self.folder / "shards"

    @property
    def continued(self) -> Path:
        """Checkpoints that runs went on from, one folder per digest."""
        return self.folder / "continued"

    @property
    def spools(self) -> Path:
        """Tracking records that wait for the tracking server."""
        return self.folder / "spool"

    @property
    def prefect(self) -> Path:
        return self.folder / "prefect"

    def run(self, run_id: str) -> RunFiles:
        return RunFiles(self.folder / "runs" / run_id)


@dataclass(frozen=True)
class RunFiles:
    """What is kept of one run after its worktree is gone."""

    folder: Path

    def events(self, stage: str) -> Path:
        return self.folder / "events" / f"{_file_name(stage)}.jsonl"

    def log(self, stage: str) -> Path:
        return self.folder / "logs" / f"{_file_name(stage)}.log"

    @property
    def record(self) -> Path:
        """State of the run, read to resume it."""
        return self.folder / "run.json"

    @property
    def patch(self) -> Path:
        return self.folder / "patch.diff"

    @property
    def lineage(self) -> Path:
        return self.folder / "lineage.json"

    @property
    def work(self) -> Path:
        """Unfinished work of a reproduction, which shares none with others."""
        return self.folder / "work"

    @property
    def original(self) -> Path:
        """Outs that a reproduction compares its own with."""
        return self.folder / "original"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def data_card(self) -> Path:
        return self.folder / "data-card.html"


def _file_name(stage: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", stage)
