"""Stages `finetune@TASK`: the pretrained model trained on one task. `python -m components.finetune TASK` imports no torch."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from components.params import TASKS, Params, Task
from components.results import TrainResult
from components.run.main import StageContext, stage_main
from components.run.paths import Paths
from components.tracking.weights import WEIGHTS_FILE, WeightsRecord, fetch_weights
from components.training.supervise import train


def run(params: Params, paths: Paths, context: StageContext, *, task: Task) -> TrainResult:
    """Train the weights of outputs/pretrain on `task` into outputs/finetune/<task>. Raises StageError."""
    initial = fetch_weights(WeightsRecord.read(paths.pretrain / WEIGHTS_FILE), context.settings)
    return train(params, paths, context, task, paths.finetune(task), initial)


def main(arguments: list[str]) -> int:
    """Exit status of `python -m components.finetune TASK`."""
    parser = argparse.ArgumentParser(prog="python -m components.finetune", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    task: Task = parser.parse_args(arguments).task
    return stage_main(f"finetune@{task}", partial(run, task=task))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
