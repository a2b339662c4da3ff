"""Which rows a training came to, where that does not follow from its parameters: left out in rollbacks, drawn at levels it rose to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from components.data.cursor import Cursor
from components.params import TrainParams

COURSE_FILE = "course.json"
"""In the work folder, and among the outs of a stage that has such a course."""
COURSE_TAG = "mmfs.course"
"""Of the stage's MLflow run: the same, by which `mmfs trace` finds the steps that saw a document."""


def course_of(work: Path, train: TrainParams) -> str | None:
    """The data cursor at the beginning of the training with all that is left out and all moves, as JSON.

    None where it says no more than the parameters do.
    """
    try:
        values = json.loads((work / COURSE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not values:
        return None
    ended = Cursor.from_dict(values)
    if not ended.skipped and ended.moves == train.progression.moves:
        return None
    return json.dumps(replace(Cursor(), skipped=ended.skipped, moves=ended.moves).to_dict())
