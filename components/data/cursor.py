"""Where a training stream stands: a few integers, however far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from components.data.documents import CorpusError
from components.data.plan import Place

CURSOR_VERSION = 3
_OLDEST = 2
"""Before it, the order of training was another one."""


@dataclass(frozen=True)
class Cursor:
    """The next row is row 0 of `step`; `rows` were read before it. `places` are the next rows of the sources, by name.

    `skipped`: (draw, count) of draws that are left out, in order and apart. `placed`: the draw that the places belong to, where it is not
    that of the next row. `moves`: (step, level) of the changes of level that are known, also of those to come, in order
    (components.progression); before the first the level is 0.
    """

    step: int = 0
    rows: int = 0
    skipped: tuple[tuple[int, int], ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict)
    placed: int | None = None
    moves: tuple[tuple[int, int], ...] = ()

    @property
    def places_draw(self) -> int:
        """The draw of the mixture that the places belong to."""
        return self.draw(self.rows) if self.placed is None else self.placed

    def level(self, step: int) -> int:
        """The level at which the rows of a step are drawn."""
        return next((level for first, level in reversed(self.moves) if first <= step), 0)

    def draw(self, row: int) -> int:
        """The draw of the mixture that belongs to a row, counted from the beginning of the training."""
        for first, count in self.skipped:
            row += count if row >= first else 0
        return row

    def leaving_out(self, first: int, end: int) -> Self:
        """The cursor of a training that leaves out the draws from `first` to before `end` as well; steps and rows count on without them.

        The same again changes nothing. Raises ValueError when rows before the cursor would be among them.
        """
        if any(start <= first and end <= start + count for start, count in self.skipped):
            return self
        if first < (self.draw(self.rows - 1) + 1 if self.rows else 0):
            raise ValueError(f"draws {first} to {end} lie before the cursor, which stands at row {self.rows}")
        windows: list[tuple[int, int]] = []
        for start, stop in sorted([*((start, start + count) for start, count in self.skipped), (first, end)]):
            if windows and start <= windows[-1][1]:
                windows[-1] = windows[-1][0], max(stop, windows[-1][1])
            else:
                windows.append((start, stop))
        skipped = tuple((start, stop - start) for start, stop in windows)
        return replace(self, skipped=skipped, placed=self.places_draw)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "version": CURSOR_VERSION,
            "step": self.step,
            "rows": self.rows,
            "skipped": [list(one) for one in self.skipped],
            "places": {name: [place.epoch, place.window, place.row] for name, place in self.places.items()},
            "moves": [list(one) for one in self.moves],
        } | ({} if self.placed is None else {"placed": self.placed})

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
            placed = values.get("placed")
            moves = tuple((int(step), int(level)) for step, level in values.get("moves", ()))
            return cls(int(values["step"]), int(values["rows"]), skipped, places, None if placed is None else int(placed), moves)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorpusError(f"the checkpoint's data cursor is damaged ({error!r}); resume from an earlier checkpoint") from None
