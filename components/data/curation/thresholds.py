"""Thresholds of the measured filters: stated, or the percentile of a pilot batch. Written once per target and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from components.curation_params import CurationParams, MeasureParams
from components.data.curation.measures import DISTANCE, MEASURES
from components.data.documents import CorpusError
from components.run.filetree import write_whole

VERSION = 1
DINO_DISTANCE = 0.04
"""1 - 0.96, in the middle of the cosines that the fact sheet suggests for DINOv2; not a number of the paper."""


class Threshold(BaseModel):
    """What is at or below `value` falls; nothing falls where it is None. `basis` says why; `values`: how many were measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: float | None
    basis: str
    percentile: float | None = None
    values: int = 0


class Thresholds(BaseModel):
    """The thresholds by measure, what they were measured with and on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: int = VERSION
    key: str
    measures: dict[str, Threshold]
    instruments: dict[str, str]
    pilot: tuple[str, ...]
    """sha256 of the pilot's videos."""

    def drops(self, measure: str, value: float) -> bool:
        """Whether a value falls."""
        limit = self.measures[measure].value
        return limit is not None and value <= limit

    def write(self, path: Path) -> None:
        """Equal thresholds give equal bytes."""
        write_whole(path, json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """What was written, None where nothing was. Raises CorpusError for a broken or newer file."""
        try:
            found = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise CorpusError(f"{path} holds no thresholds; remove it and curate again") from None
        if found.version > VERSION:
            raise CorpusError(f"{path} has version {found.version}, this mmfs reads up to {VERSION}; update mmfs")
        return found


def calibrate(
    values: Mapping[str, Sequence[float]], params: CurationParams, instruments: Mapping[str, str], pilot: Sequence[str], key: str
) -> Thresholds:
    """The thresholds that the pilot's values give. A filter without values and without a stated threshold drops nothing."""
    dino = instruments[DISTANCE].startswith("dinov2:")
    chosen = {measure: _threshold(values.get(measure, ()), getattr(params, measure), dino and measure == DISTANCE) for measure in MEASURES}
    return Thresholds(key=key, measures=chosen, instruments=dict(instruments), pilot=tuple(sorted(pilot)))


def _threshold(values: Sequence[float], params: MeasureParams, dino: bool) -> Threshold:
    if params.threshold is not None:
        return Threshold(value=params.threshold, basis="stated", values=len(values))
    if dino:
        return Threshold(value=DINO_DISTANCE, basis="suggested for DINOv2", values=len(values))
    if not values:
        return Threshold(value=None, basis="no values")
    limit = float(np.percentile(np.asarray(values, np.float64), params.percentile))
    # The lowest value itself does not fall at percentile 0.
    return Threshold(value=limit if params.percentile > 0 else None, basis="percentile", percentile=params.percentile, values=len(values))
