"""The child that puts in place what DVC knows of a run: `python -m components.run.restore STAGE...`, in a fresh checkout.

It starts from the lock of an earlier run, named by $MMFS_LOCK: outs of equal inputs are checked out at once, where DVC's run-cache would
rewrite the lock stage by stage. Entries for other inputs do no harm: DVC sees that they differ.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from components.run.pipeline import read_pipeline
from components.run.process import die_with_parent
from components.run.yamlfile import read_yaml, write_yaml
from components.settings import quiet

LOCK_VARIABLE = "MMFS_LOCK"


def read_lock(path: Path) -> dict[str, Any] | None:
    """What a lock holds; None where there is none or DVC would refuse it: DVC writes its lock in place, and may be killed meanwhile."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        known: dict[str, Any] = COMPILED_LOCKFILE_SCHEMA(read_yaml(path))
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError, yaml.YAMLError, Invalid):
        return None
    return known


def seed(lock: Path, target: Path, stages: Iterable[str]) -> bool:
    """Write the entries of these stages into a lock of their own; False where the checkout has one or there is none to take them from.

    A lock that a kill left torn would stop every later attempt; it is discarded, DVC's run-cache knows what it held.
    """
    if read_lock(target) is not None:
        return False
    target.unlink(missing_ok=True)
    known = read_lock(lock)
    if known is None:
        return False
    entries = known.get("stages", {})
    chosen = {name: entries[name] for name in stages if name in entries}
    write_yaml(target, {"schema": known["schema"], "stages": chosen})
    return True


def main(stages: list[str]) -> int:
    """DVC's exit status: not zero when one of the stages would have to run."""
    quiet(os.environ)
    die_with_parent(signal.SIGTERM)
    # DVC runs commands with $SHELL: one that always fails makes it restore what it can and run nothing.
    os.environ["SHELL"] = "/bin/false"
    from dvc.cli import main as dvc

    pipeline = read_pipeline(Path("dvc.yaml"))
    needed = {dep for name in stages for dep in pipeline[name].deps}
    last = [name for name in stages if not any(path == out or path.startswith(f"{out}/") for out in pipeline[name].outs for path in needed)]
    if seed(Path(os.environ.get(LOCK_VARIABLE, "")), Path("dvc.lock"), stages):
        dvc(["checkout", "--quiet"])
    asked = [] if len(stages) == len(pipeline) else last  # for each name DVC would read dvc.yaml and dvc.lock anew
    return int(dvc(["--wait-for-lock", "repro", "--keep-going", *asked]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
