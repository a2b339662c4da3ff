"""`python -m components.training.checkpoints.export_step CHECKPOINT FOLDER`: the weights of a committed checkpoint as a model's folder."""

from __future__ import annotations

import sys
from pathlib import Path

from components.training.checkpoints.export import export_checkpoint
from components.training.diagnose import diagnose

if __name__ == "__main__":
    try:
        export_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        problem = diagnose(error)
        sys.stderr.write(problem.line() + "\n")
        sys.exit(problem.failure.exit_code)
