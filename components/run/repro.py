"""The child that runs one stage through DVC: `python -m components.run.repro STAGE [dvc repro options]`.

It differs from `dvc repro` in how it ends: when its parent dies or it is told to stop, it passes SIGTERM to its process group and waits
for the stage's command, which DVC itself would leave behind as an orphan.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from components.run.process import die_with_parent
from components.settings import quiet


def main(arguments: list[str]) -> int:
    """DVC's exit status for the stage named by the first argument."""
    quiet(os.environ)
    signal.signal(signal.SIGTERM, _pass_on)
    die_with_parent(signal.SIGTERM)
    from dvc.cli import main as dvc

    return int(dvc(["--wait-for-lock", "repro", "--single-item", *arguments]))


def _pass_on(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(os.getpgrp(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
