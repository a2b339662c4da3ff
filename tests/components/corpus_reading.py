"""A corpus read as `prepare` reads it, for the tests of readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.data.sources.formats import open_source
from components.data.sources.source import Accepted, Limits, Rejected
from components.params import CorpusParams

LIMITS = Limits(1_000_000, 100_000, 8)


def read(folder: Path, kind: str, **options: Any) -> tuple[list[Accepted], dict[str, str], list[str]]:
    """Documents of all units, reasons by place, places of what is only missing. A place is refused once, an id given once."""
    source = open_source(CorpusParams(name="c", format=kind, licence="CC0-1.0", options=options), folder, LIMITS)
    everything = [one for unit in source.units() for one in source.documents(unit)]
    rejected = [one for one in everything if isinstance(one, Rejected)]
    accepted = [one for one in everything if isinstance(one, Accepted)]
    assert len({one.where for one in rejected}) == len(rejected)
    assert len({one.document.id for one in accepted}) == len(accepted)
    for one in accepted:
        assert one.document.model_validate_json(one.document.model_dump_json()) == one.document
        assert len(one.images) == len(one.sizes) == len(one.document.images)
    return accepted, {one.where: one.reason for one in rejected}, [one.where for one in rejected if one.missing]
