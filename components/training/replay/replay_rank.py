"""The rank program of a replay: `python -m components.training.replay.replay_rank WORK` goes to the step that WORK/replay.json names and
stops."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.run.filetree import write_whole
from components.training.job import Job
from components.training.rank import Parts, leave, run_rank

if TYPE_CHECKING:
    from torch import nn

    from components.training.fit import BatchOf, CursorOf, Save
    from components.training.replay.probe import Describe
    from components.training.telemetry.meter import Meter
    from components.training.validation.validation import HeldOut

REPLAY_FILE = "replay.json"


def result_file(work: Path, rank: int) -> Path:
    """What a rank saw in the step."""
    return work / f"replayed-{rank}.json"


def replay_rank(work: Path, parts: Parts, describe: Describe) -> int:
    """Train up to the step that is asked for and leave word of it; the exit status."""
    step = int(json.loads((work / REPLAY_FILE).read_text(encoding="utf-8"))["step"])
    return run_rank(work, parts, partial(_until, step, describe))


def _until(
    step: int,
    describe: Describe,
    job: Job,
    network: nn.Module,
    batch_of: BatchOf,
    save: Save,
    cursor_of: CursorOf,
    held_out: HeldOut | None = None,
    levels: Any = None,
) -> None:
    """As `fit`, up to the step."""
    from components.training.fit import fit
    from components.training.replay.probe import Probe, Reached

    made: list[Probe] = []

    def probe(meter: Meter) -> Probe:
        made.append(Probe(job, step, describe, meter, levels))
        return made[0]

    with suppress(Reached):
        fit(job, network, batch_of, save, cursor_of, held_out, levels, probe)
    write_whole(result_file(job.work, int(os.environ["RANK"])), json.dumps(made[0].seen()))


if __name__ == "__main__":
    from components.training.parts import mm_interleaved
    from components.training.replay.replay_rows import describe_rows

    leave(replay_rank(Path(sys.argv[1]), mm_interleaved, describe_rows))
