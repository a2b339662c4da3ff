"""Stages `finetune@TASK`: the pretrained model, or another, trained on one task. `python -m components.finetune TASK` imports no torch."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from components.adopt import adopt
from components.params import TASKS, Params, Task
from components.pretrain import stage_config
from components.results import TrainResult
from components.run.main import StageContext, stage_main
from components.run.paths import Paths
from components.starts import begin
from components.training.supervise import train


def run(params: Params, paths: Paths, context: StageContext, *, task: Task) -> TrainResult:
    """Train the weights of outputs/pretrain, or what `init_from` says, on `task` into outputs/finetune/<task>. Raises StageError."""
    start = begin(params, task, paths, context, partial(stage_config, params, paths, task))
    if not params.training(task).steps:
        return adopt(paths, context, paths.finetune(task), start)
    return train(params, paths, context, task, paths.finetune(task), start)


def main(arguments: list[str]) -> int:
    """Exit status of `python -m components.finetune TASK`."""
    parser = argparse.ArgumentParser(prog="python -m components.finetune", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    task: Task = parser.parse_args(arguments).task
    return stage_main(f"finetune@{task}", partial(run, task=task))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
