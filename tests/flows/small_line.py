"""A line of real form for tests of what happens between stages: these write their outs in milliseconds and train nothing.

A file in the folder `trouble` named like a stage makes its next attempts go wrong: one failure class a line, or `hang`, or `fill` for the
disk on which $BALLAST lies.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow.tracking import MlflowClient

STAGE = r"""
import hashlib, json, os, sys, time
from pathlib import Path

CODES = {"infrastructure": 69, "bug": 70, "bad_data": 65, "preempted": 75}
name = sys.argv[1]
stage, _, task = name.partition("@")
seed = next(line.split(":")[1].strip() for line in open("params.yaml") if line.startswith("seed:"))


def tell(event, **values):
    with open(os.environ.get("MMFS_EVENTS", os.devnull), "a") as file:
        file.write(json.dumps({"schema": 1, "time_ms": int(time.time() * 1000), "event": event, **values}) + "\n")


def trouble():
    path = Path(os.environ.get("TROUBLE", "/nowhere")) / name
    if not path.exists():
        return
    first, *rest = path.read_text().split()
    path.write_text("\n".join(rest)) if rest else path.unlink()
    if first == "hang":
        while True:
            time.sleep(0.1)
    if first == "fill":
        with open(os.environ["BALLAST"], "ab", buffering=0) as ballast:
            while True:
                ballast.write(bytes(1 << 16))
    tell("failed", **{"class": first, "message": "made to fail", "fix": "take the trouble away"})
    sys.exit(CODES[first])


tell("started", stage=name, key=name)
trouble()
tell("progress", done=1, total=2, unit="steps", metrics={"loss": 0.5})
out = {
    "prepare": Path("outputs/index"), "pretrain": Path("outputs/pretrain"),
    "finetune": Path("outputs/finetune", task), "evaluate": Path("outputs/evaluation", task),
}[stage]
out.mkdir(parents=True, exist_ok=True)
if stage == "prepare":
    (out / "index.json").write_text(seed)
elif stage == "evaluate":
    digest = json.loads(Path("outputs/finetune", task, "weights.json").read_text())["model_digest"]
    share = 0.5 + int(digest[:2], 16) / 512
    rows = [{"document": f"d{n}", "scores": {METRIC: float(n < 100 * share)}} for n in range(100)]
    (out / "manifest.json").write_text(json.dumps({"sha256": "m" * 64}))
    (out / "metrics.json").write_text(json.dumps({METRIC: {"value": share, "low": 0, "high": 1, "n": 100}}))
    (out / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
else:
    digest = hashlib.sha256(f"{name} {seed}".encode()).hexdigest()
    (out / "weights.json").write_text(json.dumps({"version": 1, "model_digest": digest, "files": [], "config": {}}))
    (out / "metrics.json").write_text(json.dumps({"loss": 0.25}))
tell("finished", result={"summary": f"{name} done"})
"""
METRIC = "question_accuracy"
PIPELINE = """
stages:
  prepare:
    cmd: python stage.py prepare
    deps: [stage.py, data/input]
    params: [seed]
    outs: [outputs/index]
  pretrain:
    cmd: python stage.py pretrain
    deps: [stage.py, outputs/index]
    params: [seed]
    outs: [outputs/pretrain]
  finetune:
    foreach: [vqa, story]
    do:
      cmd: python stage.py finetune@${item}
      deps: [stage.py, outputs/pretrain]
      params: [seed]
      outs: ["outputs/finetune/${item}"]
  evaluate:
    foreach: [vqa, story]
    do:
      cmd: python stage.py evaluate@${item}
      deps: [stage.py, "outputs/finetune/${item}"]
      params: [seed]
      outs: ["outputs/evaluation/${item}"]
"""
FILES = {"dvc.yaml": PIPELINE, "stage.py": f"METRIC = {METRIC!r}\n{STAGE}"}
STAGES = ["version", "prepare", "pretrain", "finetune@vqa", "evaluate@vqa", "archive"]
DRIVER = """
import json, sys
from pathlib import Path
from flows.local import run
from flows.options import RunOptions
told = []
options = RunOptions(Path.cwd(), overrides=("tasks=[vqa]", *sys.argv[1:]))
result = run(options, lambda news: told.append([news.stage, news.state, news.message]))
print(json.dumps({**result.as_dict(), "told": told}))
"""

REPRODUCER = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from flows.local import reproduce
print(json.dumps(asdict(reproduce(Path.cwd(), sys.argv[1], source=sys.argv[2] if len(sys.argv) > 2 else None))))
"""


class SmallLine:
    """A repository with the small line, and runs of it in processes of their own."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.root = root
        self.trouble = root.parent / "trouble"
        self.trouble.mkdir(exist_ok=True)
        self.environment = {
            **environment,
            "TROUBLE": str(self.trouble),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")

    def publish(self, seed: int) -> str:
        """What pretraining and training the task vqa with this seed would publish; the latter's digest."""
        experiment = self.client.get_experiment_by_name("mmfs")
        location = (self.root / "mlartifacts").as_uri()
        identity = experiment.experiment_id if experiment else self.client.create_experiment("mmfs", artifact_location=location)
        digests = [hashlib.sha256(f"{stage} {seed}".encode()).hexdigest() for stage in ("pretrain", "finetune@vqa")]
        for digest in digests:
            model = self.client.create_logged_model(identity, name="mmfs", tags={"mmfs.model_digest": digest})
            folder = Path(unquote(urlsplit(model.artifact_location).path), "artifacts")
            folder.mkdir(parents=True)
            (folder / "model.safetensors").touch()
            self.client.finalize_logged_model(model.model_id, "READY")
        return digests[-1]

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        """`mmfs run` without its printing."""
        command = [sys.executable, "-c", DRIVER, *overrides]
        return subprocess.Popen(command, cwd=self.root, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def reproduce(self, *arguments: str) -> dict[str, Any]:
        """`mmfs reproduce` without its printing: a model, then perhaps a git revision."""
        command = [sys.executable, "-c", REPRODUCER, *arguments]
        return self.wait(
            subprocess.Popen(command, cwd=self.root, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )

    def commit(self, message: str) -> None:
        """Commit every change of the source."""
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *identity, "commit", "-qam", message], cwd=self.root, check=True)

    def run(self, *overrides: str) -> dict[str, Any]:
        """The result of a whole run."""
        return self.wait(self.start(*overrides))

    def wait(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """The result of a started run."""
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result
