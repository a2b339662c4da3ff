"""A supervisor of stand-in ranks as a process of its own, to be stopped and killed: `python -m standin_supervisor WORK`, TRAIN in JSON."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from training_world import World

from components.params import TrainParams
from components.run.failures import StageError
from components.run.process import die_with_parent, raise_on_termination
from components.training.guards.attempts import Limits


def main(work: Path) -> int:
    die_with_parent()
    raise_on_termination()
    try:
        World(work, TrainParams.model_validate_json(os.environ["TRAIN"]), {}).supervise(Limits(delay_s=0.0))
    except StageError as error:
        print(error.line(), file=sys.stderr)
        return error.failure.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
