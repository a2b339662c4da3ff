"""Keeps a run for good: `python -m components.run.archive NAME` pushes its outs and saves it as a DVC experiment.

DVC keeps locks and global state, so it runs in this child and never in the flow's process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from components.run.failures import FailureClass, StageError
from components.run.guard import guarded
from components.run.paths import Paths
from components.run.process import die_with_parent


def archive(name: str, root: Path) -> str:
    """Push everything that the checkout's lock speaks of with the run-cache, then save the experiment; its revision. Raises StageError.

    No stage is named: for each name DVC would read dvc.yaml and dvc.lock anew, which is what this step's time goes into.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            repo.push(run_cache=True)
            # Every stage was committed when it was reproduced; naming the input keeps DVC from committing all of them again.
            return str(repo.experiments.save(targets=[str(Paths(root).input_pin)], name=name, force=True))
    except DvcException as error:
        fix = "look at `dvc remote list`, then run the same command again"
        raise StageError(FailureClass.INFRASTRUCTURE, f"DVC could not keep the run: {error}", fix) from error


def main() -> int:
    """Archive the checkout in the current folder."""
    die_with_parent()
    for part, value in (("NAME", "mmfs"), ("EMAIL", "mmfs@localhost")):
        for role in ("AUTHOR", "COMMITTER"):
            os.environ.setdefault(f"GIT_{role}_{part}", value)
    return guarded(
        "archive",
        lambda settings, events: events.finished({"experiment": sys.argv[1], "revision": archive(sys.argv[1], Path.cwd())}),
    )


if __name__ == "__main__":
    sys.exit(main())
