"""Two runs' outs compared: file by file, and inside of weights and metrics by what people call their parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.evaluation.estimates import METRICS_FILE
from components.run.pipeline import StageSpec

WEIGHTS_FILE = "weights.json"
ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """One thing that a stage made differently: a file, a weights file or a metric."""

    stage: str
    what: str
    original: str
    reproduced: str


def compare_outs(stages: Sequence[StageSpec], original: Path, reproduced: Path) -> list[Difference]:
    """Everything in which the outs of these stages differ between two checkouts, in the order of the stages."""
    found = []
    for stage in stages:
        for out in stage.outs:
            found += [Difference(stage.name, *row) for row in _differing(original / out, reproduced / out, out)]
    return found


def _differing(original: Path, reproduced: Path, name: str) -> Iterator[tuple[str, str, str]]:
    if original.is_dir() or reproduced.is_dir():
        for inner in sorted(_files(original) | _files(reproduced)):
            yield from _differing(original / inner, reproduced / inner, f"{name}/{inner}")
        return
    before, after = _sha256(original), _sha256(reproduced)
    if before == after:
        return
    parts = _PARTS.get(original.name)
    if parts is None or ABSENT in (before, after):
        yield name, before[:12], after[:12]
        return
    old, new = parts(json.loads(original.read_text())), parts(json.loads(reproduced.read_text()))
    rows = [(key, old.get(key, ABSENT), new.get(key, ABSENT)) for key in sorted(old.keys() | new.keys())]
    yield from [row for row in rows if row[1] != row[2]] or [(name, before[:12], after[:12])]


def _weights(record: dict[str, Any]) -> dict[str, str]:
    files = {f"weights {file['name']}": file["sha256"][:12] for file in record["files"]}
    return {"weights": record["model_digest"][:12], **files}


def _metrics(values: dict[str, Any]) -> dict[str, str]:
    plain = {name: value.get("value", value) if isinstance(value, dict) else value for name, value in values.items()}
    return {f"metric {name}": json.dumps(value) for name, value in plain.items()}


_PARTS = {WEIGHTS_FILE: _weights, METRICS_FILE: _metrics}


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != ".gitignore"}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ABSENT
