"""A repository with a two-stage line of its own: real git, real DVC, real MLflow store, stages that take a moment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2]

PREPARE = """
import sys
from pathlib import Path
from components.results import Result
from components.run.main import stage_main

def body(params, paths, context):
    target = context.work / "index"
    target.mkdir(exist_ok=True)
    text = (paths.input / "numbers.txt").read_text()
    (target / "index.json").write_text(text * params.data.image_px)
    context.work.publish(target, paths.index)
    return Result(metrics={"documents": 1.0})

if __name__ == "__main__":
    sys.exit(stage_main("prepare", body))
"""

TRAIN = """
import json, os, sys, time
from pathlib import Path
from components.results import TrainResult
from components.run.failures import FailureClass, StageError
from components.run.main import stage_main
from components.tracking.stage_run import point
from components.tracking.weights import describe_weights, publish_weights

TASK = sys.argv[1]

def body(params, paths, context):
    done = context.work / "step"
    first = int(done.read_text()) if done.exists() else 0
    for step in range(first + 1, params.pretrain.steps + 1):
        if Path(os.environ.get("TINY_FAIL", "/nonexistent")).exists():
            raise StageError(FailureClass.NON_FINITE, "loss is NaN", "lower the learning rate")
        time.sleep(float(os.environ.get("TINY_SLEEP", "0")))
        context.tracking.log_metrics([point(step, loss=1 / step)])
        context.events.progress(step, params.pretrain.steps, "steps", {"loss": 1 / step})
        done.write_text(str(step))
    out = context.work / "out"
    out.mkdir(exist_ok=True)
    export = context.work / "export"
    export.mkdir(exist_ok=True)
    (export / "config.json").write_text(json.dumps({"seed": params.seed, "task": TASK, "steps": params.pretrain.steps}))
    weights = describe_weights(export)
    weights.write(out / "weights.json")
    publish_weights(export, weights, context.tracking, context.settings)
    (out / "metrics.json").write_text(json.dumps({"loss": 1 / params.pretrain.steps}))
    context.work.publish(out, paths.outputs / "train" / TASK)
    return TrainResult(metrics={"loss": 1 / params.pretrain.steps}, model_digest=weights.model_digest, steps=params.pretrain.steps)

if __name__ == "__main__":
    sys.exit(stage_main(f"train@{TASK}", body))
"""

DVC_YAML = """
stages:
  prepare:
    cmd: python stages/prepare.py
    deps: [data/input, stages/prepare.py]
    params: [seed, data]
    outs: [outputs/index]
  train:
    foreach: [vqa, story]
    do:
      cmd: python stages/train.py ${item}
      deps: [outputs/index, stages/train.py]
      params: [seed, pretrain]
      outs: ["outputs/train/${item}"]
metrics:
  - outputs/train/vqa/metrics.json
  - outputs/train/story/metrics.json
"""


def make_line(root: Path) -> Path:
    """Build and commit the repository."""
    (root / "stages").mkdir(parents=True)
    (root / "stages" / "prepare.py").write_text(PREPARE)
    (root / "stages" / "train.py").write_text(TRAIN)
    (root / "dvc.yaml").write_text(DVC_YAML)
    shutil.copy(SOURCE / "params.yaml", root / "params.yaml")
    shutil.copy(SOURCE / "requirements.lock", root / "requirements.lock")
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("  steps: 400", "  steps: 5").replace("  warmup_steps: 20", "  warmup_steps: 1"))
    (root / ".gitignore").write_text(".mmfs/\nmlflow.db*\nmlartifacts/\n__pycache__/\n/outputs/\n/data/input\n")
    git(root, "init", "-q", "-b", "main")
    shutil.copytree(SOURCE / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    shutil.copy(SOURCE / ".dvcignore", root / ".dvcignore")
    (root / "data" / "input").mkdir(parents=True)
    (root / "data" / "input" / "numbers.txt").write_text("1 2 3\n")
    dvc(root, "add", "-q", "data/input")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "tiny line")
    return root


def environment(root: Path, **extra: str) -> dict[str, str]:
    """What a child needs to find Python, the components and the repository."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("MMFS_", "MLFLOW_", "DVC_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{base['PATH']}"
    return (
        base
        | {
            "PATH": path,
            "PYTHONPATH": str(SOURCE),
            "MMFS_ROOT": str(root),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(root / ".dvc" / "tmp" / "site"),
            "OMP_NUM_THREADS": "1",
        }
        | extra
    )


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    return subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def dvc(root: Path, *arguments: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True, env=environment(root, **extra), check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
