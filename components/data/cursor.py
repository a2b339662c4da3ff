"""Where a training stream stands: a few integers, however far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from components.data.documents import CorpusError
from components.data.plan import Place

CURSOR_VERSION = 3
_OLDEST = 2
"""Before it, the order of training was another one."""


@dataclass(frozen=True)
class Cursor:
    """The next row is row 0 of `step`; `rows` were read before it. `places` are the next rows of the sources, by name.

    `skipped`: (draw, count) of draws that were left out, in order. `moves`: (step, level) of the changes of level that are known, also of
    those to come, in order (components.progression); before the first the level is 0.
    """

    step: int = 0
    rows: int = 0
    skipped: tuple[tuple[int, int], ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict)
    moves: tuple[tuple[int, int], ...] = ()

    def level(self, step: int) -> int:
        """The level at which the rows of a step are drawn."""
        return next((level for first, level in reversed(self.moves) if first <= step), 0)

    def draw(self, row: int) -> int:
        """The draw of the mixture that belongs to a row, counted from the beginning of the training."""
        for first, count in self.skipped:
            row += count if row >= first else 0
        return row

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "version": CURSOR_VERSION,
            "step": self.step,
            "rows": self.rows,
            "skipped": [list(one) for one in self.skipped],
            "places": {name: [place.epoch, place.window, place.row] for name, place in self.places.items()},
            "moves": [list(one) for one in self.moves],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises CorpusError for another version, or for what is no cursor."""
        version = values.get("version")
        if not isinstance(version, int) or version > CURSOR_VERSION:
            raise CorpusError(f"the checkpoint's data cursor has version {version!r}; install a newer mmfs")
        if version < _OLDEST:
            raise CorpusError(
                f"the checkpoint's data cursor has version {version}: its order of training is one that this mmfs does not make any more; "
                "go on with the mmfs that wrote it, or start the training again"
            )
        try:
            places = {name: Place(*map(int, place)) for name, place in values["places"].items()}
            skipped = tuple((int(first), int(count)) for first, count in values["skipped"])
            moves = tuple((int(step), int(level)) for step, level in values.get("moves", ()))
            return cls(int(values["step"]), int(values["rows"]), skipped, places, moves)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorpusError(f"the checkpoint's data cursor is damaged ({error!r}); resume from an earlier checkpoint") from None
